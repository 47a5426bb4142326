"""Draw one patient as a strip of pictures: original, reconstruction and absolute error over the cardiac cycle.

Research use only, not a medical device.

    python scripts/draw_strip.py --model demo_output/stage3 --data demo_output/phantom_wds --split test \\
        --patient patient044 --label "synthetic phantom" --output strip.png

The patient is packed into a compressed file in memory and decoded from its bytes. The strip shows the middle slice, one
column a phase. The caption gives the patient's mean PSNR and the bits a frame, over all slices and phases.

Axes: H height, W width, S side of the model grid, D slices, T phases.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from data.scoring.images import cost, score_native, to_native
from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from scripts.files.codec import add_rate_arguments, compress, decompress, load_model, open_for, rate_of
from utils.config.ranges import Positive, check_options
from utils.device import pick_device
from utils.errors import user_errors
from utils.files import atomic_path, user_path
from utils.report.drawing.figures import ERROR, GREY, INK

CELL = 1.45  # inches
DPI = 110
PALETTE = 256  # colours of the file; with fewer, grey images share them with the error map
BATCH_FRAMES = 64
MOST_NAMED = 5  # patients in an error message


class Strip(NamedTuple):
    """The content of a strip.

    Args:
        original: (T, H, W) float in [0, 1], the native pixels inside the model's field, of the middle slice.
        reconstruction: the same, as decoded.
        spacing_mm: along H, along W.
        key_frames: zero-based phase -> ED or ES.
        caption: data, patient, slice, quality and rate.
    """

    original: np.ndarray
    reconstruction: np.ndarray
    spacing_mm: tuple[float, float]
    key_frames: dict[int, str]
    caption: str


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=user_path, required=True, metavar="FOLDER", help="output folder of a training run")
    add("--data", type=folder_or_url, required=True, metavar="SHARDS", help="folder or URL of shards")
    add("--split", choices=SPLITS, default="test", help="split of the patient (default test)")
    add("--patient", required=True, metavar="NAME", help="patient to draw")
    add("--output", type=user_path, required=True, metavar="PNG", help="picture to write")
    add("--label", metavar="TEXT", help="description of the data in the caption (default: name of the data folder)")
    add_rate_arguments(parser)
    add("--columns", type=int, default=6, help="number of phases shown, evenly spaced over the cycle (default 6)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU where there is one)")
    args = parser.parse_args(argv)
    if not args.model.is_dir():
        raise FileNotFoundError(f"--model {args.model}: no such folder; give the output folder of a training run")
    if args.output.suffix != ".png":
        raise ValueError(f"--output is {args.output}, expected a file name that ends in .png; rename it")
    check_options(args, {"columns": Positive})
    return args


def make_strip(args: argparse.Namespace) -> Strip:
    """Encode and decode the patient.

    Raises:
        ValueError: for a patient that is not in the split, or a model that cannot decode.
    """
    reader = ShardReader(args.data, args.split)
    patients = list(reader.patients())
    if args.patient not in patients:
        known = ", ".join(patients[:MOST_NAMED]) + (", ..." if len(patients) > MOST_NAMED else "")
        raise ValueError(
            f"--patient {args.patient} is not in the split {args.split} of {reader.folder.name}; "
            f"it has {len(patients)} patients: {known or 'none'}"
        )
    model = load_model(args.model, pick_device(args.device), BATCH_FRAMES)
    if model.config.only_segments:
        raise ValueError(f"--model {args.model} is a segmenter and cannot decode; give the folder of a trained stage")
    case = reader.read_case(args.patient)
    reference = open_for(model, case)
    data = compress(model, reference, rate=rate_of(args))
    decoded = to_native(reference, decompress(model, data))
    psnr, rate = score_native(reference, decoded)["psnr"], cost(reference, len(data))
    depth, middle = case.cine.shape[2], case.cine.shape[2] // 2
    caption = (
        f"{args.label or reader.folder.name}, {case.patient}, slice {middle + 1} of {depth}; patient: {psnr:.1f} dB "
        f"at {rate['bits_per_frame']:.0f} bits a frame ({rate['ratio_int16']:.0f}x)"
    )
    key_frames = {phase: name for name, phase in (("ED", case.ed), ("ES", case.es)) if phase is not None}
    return Strip(reference.original[middle], decoded[middle], case.spacing_mm[:2], key_frames, caption)


def draw_strip(path: Path, strip: Strip, columns: int) -> None:
    """Save the strip: three rows of pictures, one column a phase, and a colour bar for the error.

    Args:
        path: a .png file.
        strip: its content.
        columns: how many phases are shown, at most.
    """
    phases, height, width = strip.original.shape
    shown = sorted({phases * i // columns for i in range(columns)})
    aspect = strip.spacing_mm[0] / strip.spacing_mm[1]
    size = (CELL * len(shown) + 1.3, 3 * CELL * aspect * height / width + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(3, len(shown), squeeze=False)
    error = abs(strip.original - strip.reconstruction)
    rows = (("original", strip.original, GREY), ("reconstruction", strip.reconstruction, GREY), ("error", error, ERROR))
    for row, (name, images, style) in zip(axes, rows, strict=True):
        for ax, phase in zip(row, shown, strict=True):
            picture = ax.imshow(images[phase], aspect=aspect, **style)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(name, fontsize=9, color=INK)
    for ax, phase in zip(axes[0], shown, strict=True):
        name = f" ({strip.key_frames[phase]})" if phase in strip.key_frames else ""
        ax.set_title(f"phase {phase + 1} of {phases}{name}", fontsize=8, color=INK)
    bar = figure.colorbar(picture, ax=axes[2], extend="max", fraction=0.03, pad=0.01)
    bar.set_label("absolute error\n(range 0 to 1)", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(strip.caption, fontsize=9, color=INK)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file with few colours, completely or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, facecolor="white")
    picture = Image.open(buffer).convert("RGB").quantize(PALETTE, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        picture.save(temporary, optimize=True)


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    strip = make_strip(args)
    draw_strip(args.output, strip, args.columns)
    print(f"{strip.caption}: {args.output}")


if __name__ == "__main__":
    main()
