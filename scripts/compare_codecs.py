"""Compare models with video and image codecs: bytes, quality and heart metrics on the same voxels.

Research use only, not a medical device.

    python scripts/compare_codecs.py --data acdc_wds --model mri_titok_e2e_stage3_output \\
        --segmenter mri_reference_output --output_dir codec_report

Every method codes the native voxels inside one field, after the window of the volume, and everything is scored after
decoding from the bytes alone. A codec codes each slice's cine by itself, at each setting of its ladder. A model of
layout `ladder` codes any field, at each of --steps or --rates. The field is that of the last --model,
of --field_of, or of --image_size and --geometry.

OUTPUT_DIR then holds rate_distortion.csv, .json and .png, and index.html. Each result is kept in OUTPUT_DIR/finished as
soon as it is there: after an interruption, the same command computes only what is missing. Results of other inputs are
not used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from data.codecs._common import Codec
from data.preprocess import MODES
from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from modeling.titok import TiTok
from scripts.evaluate import model_names
from scripts.evaluation.finished import Finished, shared_inputs
from scripts.evaluation.rate_distortion import Point, means, measure, points_of_codec, points_of_model, taught_by
from scripts.evaluation.segmenters import Opened, open_segmenter
from scripts.files.codec import HeartWeight, Rate, field_of, load_model
from utils.config import registry
from utils.config.ranges import AboveZero, Positive, Range, check_options
from utils.config.recipe import section
from utils.device import pick_device
from utils.errors import user_errors
from utils.files import user_path, write_json, write_text
from utils.metrics import SSIM_WINDOW
from utils.report import rate_distortion
from utils.report.command import command_line, public_arguments
from utils.report.evaluation import NOTE
from utils.report.tables import MARK, text_table
from utils.run.stop import sigterm_interrupts

CODECS = "data.codecs"
STEPS = [0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.4, 0.56, 0.8, 1.1]
Field = tuple[int, str]  # image size and geometry
Side: TypeAlias = Annotated[int, Range(SSIM_WINDOW, 2048)]
RANGES = {
    **{"batch_frames": Positive, "limit": Positive, "image_size": Side, "heart_weight": HeartWeight},
    **{"steps": AboveZero, "rates": AboveZero},
}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    known = registry.names(CODECS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=folder_or_url, required=True, metavar="SHARDS", help="folder or URL of shards")
    add("--split", choices=SPLITS, default="test", help="split of the patients (default test)")
    add("--output_dir", type=user_path, required=True, metavar="DIR", help="folder for the report")
    add("--model", type=user_path, nargs="+", default=[], metavar="FOLDER", help="trained models of one field")
    segmenter = "reference segmenters for the heart, each a trained model or NAME.onnx with NAME.yaml (default: none)"
    add("--segmenter", type=user_path, nargs="+", default=[], metavar="PATH", help=segmenter)
    add("--codecs", nargs="*", default=known, metavar="NAME", help=f"codecs (default: all of {', '.join(known)})")
    option = "options of codecs, such as svt_av1.preset=8 or 'x265.ladder=[22,30,38,46]'"
    add("--codec_option", nargs="+", action="extend", default=[], metavar="NAME.KEY=VALUE", help=option)
    steps = f"steps of a rate ladder's quantizer (default {' '.join(map(str, STEPS))})"
    add("--steps", type=float, nargs="+", default=STEPS, metavar="Q", help=steps)
    rates = "bytes a frame of a rate ladder, instead of --steps; slower, since each step is searched for"
    add("--rates", type=float, nargs="+", metavar="N", help=rates)
    weight = "how many times the step of a rate ladder is finer around the heart, 1 to 64; several for several curves"
    add("--heart_weight", type=float, nargs="+", default=[1.0], metavar="W", help=f"{weight} (default 1)")
    add("--limit", type=int, help="compare only the first LIMIT patients of the split")
    add(
        "--field_of",
        type=user_path,
        metavar="FOLDER",
        help="use the field of this model (default: of the last --model)",
    )
    add("--image_size", type=int, help="side of the field, instead of a model's")
    add("--geometry", choices=MODES, help="with --image_size: crop (default) or fit")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU if available)")
    add("--batch_frames", type=int, default=64, help="number of frames in a batch (default 64)")
    args = parser.parse_args(argv)
    args.codecs = list(dict.fromkeys(args.codecs))
    check_options(args, RANGES)
    folders = [("field_of", args.field_of), *(("model", path) for path in args.model)]
    folders += [("segmenter", path) for path in args.segmenter]
    for name, folder in folders:
        if folder is not None and not folder.is_dir() and not (name == "segmenter" and folder.suffix == ".onnx"):
            raise FileNotFoundError(f"--{name} {folder}: no such folder; give the output folder of a training run")
    if args.geometry and args.image_size is None:
        raise ValueError("--geometry needs --image_size, the side of the field; add it")
    if args.field_of is not None and args.image_size is not None:
        raise ValueError("--field_of and --image_size both choose the field; give one of them")
    if not args.model and args.field_of is None and args.image_size is None:
        raise ValueError("no field is chosen; give --model, --field_of or --image_size")
    return args


def open_codecs(names: Sequence[str], settings: Sequence[str]) -> dict[str, Codec]:
    """The chosen codecs with their options.

    Args:
        names: of files of data/codecs.
        settings: `NAME.KEY=VALUE`.

    Raises:
        ValueError: for an unknown name or option, an option of another codec, or a package that is not installed.
    """
    known = registry.names(CODECS)
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--codecs: unknown codec {unknown[0]!r}; known codecs: {', '.join(known)}")
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in section(settings).items():
        name, _, option = key.partition(".")
        if name not in options or not option:
            raise ValueError(f"--codec_option {key}: expected NAME.KEY=VALUE with a chosen codec: {', '.join(names)}")
        options[name][option] = value
    codecs = {name: registry.build(CODECS, name, options[name], f"--codec_option {name}") for name in names}
    for name, codec in codecs.items():
        if not codec.ladder:
            raise ValueError(f"--codec_option {name}.ladder is empty, expected at least one setting")
    return codecs


def open_models(folders: Sequence[Path], device: torch.device, batch_frames: int) -> dict[str, TiTok]:
    """The models by name.

    Raises:
        ValueError: for a model that only segments.
    """
    names = model_names(folders)
    models = {name: load_model(path, device, batch_frames) for name, path in zip(names, folders, strict=True)}
    for name, model in models.items():
        if model.config.only_segments:
            raise ValueError(f"--model {name} only segments: give it as --segmenter, and a trained stage as --model")
    return models


def choose_field(args: argparse.Namespace, models: dict[str, TiTok], device: torch.device) -> tuple[Field, str]:
    """The field that all methods code, and its description.

    Raises:
        ValueError: where a model has another field.
    """
    if args.image_size is not None:
        field: Field = args.image_size, args.geometry or "crop"
    else:
        source = load_model(args.field_of, device, args.batch_frames) if args.field_of else list(models.values())[-1]
        field = source.config.image_size, source.config.geometry
    for name, model in models.items():
        if model.ladder is None and (model.config.image_size, model.config.geometry) != field:
            raise ValueError(
                f"--model {name}: its field is {field_of(model)}, but the field of the comparison is {field[1]} at "
                f"{field[0]} pixels a side; compare models of different fields in separate runs"
            )
    size, mode = field
    words = {"crop": f"{size} x {size} native pixels around the heart", "fit": "the whole native image"}
    return field, words[mode]


def notes_of(
    args: argparse.Namespace, field: str, codecs: dict[str, Codec], models: dict[str, TiTok],
    taught: dict[str, list[str]], reader: ShardReader,
) -> list[str]:  # fmt: skip
    """What a reader needs to know: field, codecs, segmenters, patients."""
    notes = [
        f"Every method codes the same voxels: {field}, after the window of the volume. Padding is never scored.",
        "All metrics are of images decoded from the counted bytes. Codecs are counted without a container and without "
        "the size of the image; a model's compressed file is counted whole, with header and checksum.",
        "A codec codes each slice's cine by itself. "
        + "; ".join(f"{name} is {codec.title}, by {codec.quality}" for name, codec in codecs.items())
        + ".",
    ]
    if args.limit is not None and args.limit < len(reader.patients()):
        notes.append(f"Only the first {args.limit} of {len(reader.patients())} patients of the split were compared.")
    if not taught:
        notes.append("Dice and EF are not scored, since no --segmenter was given.")
    else:
        first, *others = taught
        text = f"Dice and EF are measured by the segmenter {first}, the same for all methods and for the original."
        also = f" The results by {', '.join(others)} are in rate_distortion.json." if others else ""
        notes.append(text + also)
    for name, favoured in taught.items():
        if favoured:
            notes.append(f"{MARK} The segmenter {name} taught {', '.join(favoured)}, so it favours these models.")
    leaks = {name: model.conditioning.leak for name, model in models.items()}
    return [*notes, *(f"LEAK: {name}: {leak}" for name, leak in leaks.items() if leak)]


def open_segmenters(paths: Sequence[Path], device: torch.device, batch_frames: int) -> list[Opened]:
    """The reference segmenters.

    Raises:
        ValueError: for a model without a segmenter, and for two of one name.
    """
    found: dict[str, Opened] = {}
    for path in paths:
        opened = open_segmenter(path, device, batch_frames)
        if opened is None:
            raise ValueError(f"--segmenter {path}: this model has no segmenter (model.conditioning)")
        name = opened.segmenter.name
        if name in found:
            raise ValueError(f"--segmenter {path}: another segmenter is also named {name!r}; rename one of them")
        found[name] = opened
    return list(found.values())


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    codecs = open_codecs(args.codecs, args.codec_option)
    device, reader = pick_device(args.device), ShardReader(args.data, args.split)
    patients = list(reader.patients())[: args.limit]
    if not patients:
        raise ValueError(f"--data {args.data}: the split {args.split} holds no patients; choose another --split")
    models = open_models(args.model, device, args.batch_frames)
    field, field_words = choose_field(args, models, device)
    opened = open_segmenters(args.segmenter, device, args.batch_frames)

    points: list[Point] = [point for name, codec in codecs.items() for point in points_of_codec(name, codec)]
    rates: list[Rate] = [{"step": step} for step in sorted(args.steps)]
    if args.rates is not None:
        rates = [{"bytes_per_frame": rate} for rate in sorted(args.rates, reverse=True)]
    weights = list(dict.fromkeys(args.heart_weight))
    own = {name: points_of_model(name, model, rates, weights) for name, model in models.items()}
    points += [point for of_model in own.values() for point in of_model]
    taught = taught_by(opened, models, own)
    failed: dict[str, str] = {}
    finished = Finished(args.output_dir, shared_inputs(reader.manifest, args.split, field, opened, device.type))
    with sigterm_interrupts():
        rows = measure(points, reader, patients, field, [one.segmenter for one in opened], failed, finished)
    named = "; ".join(f"{patient} ({reason})" for patient, reason in failed.items())
    if not rows:
        raise ValueError(f"none of the {len(patients)} patients could be compared: {named}")
    failure = f"{len(failed)} of {len(patients)} patients could not be compared and are excluded from all methods: "
    notes = notes_of(args, field_words, codecs, models, taught, reader)
    table, original = means(rows, points)
    command = public_arguments({name: value for name, value in vars(args).items() if value != []})
    data = reader.folder.resolve().name
    summary = {
        "caption": f"{data}, {args.split}, n = {len(patients) - len(failed)}; {field_words}",
        "data": data,
        "split": args.split,
        "n": len(patients) - len(failed),
        "field": {"image_size": field[0], "geometry": field[1]},
        "points": table,
        "original": original,
        "differences": rate_distortion.differences(table),
        "taught": taught,
        "models": {point.method: point.inputs["model"] for of_model in own.values() for point in of_model},
        "per_patient": rows,
        "failed": [{"patient": patient, "reason": reason} for patient, reason in failed.items()],
        "notes": [*notes, f"{failure}{named}."] if failed else notes,
        "note": NOTE,
        "command": command,
        "command_line": command_line("scripts/compare_codecs.py", argv),
    }
    write_report(args.output_dir, summary)
    if failed:
        raise ValueError(f"{failure}{named}. The report in {args.output_dir} is on the other patients.")


def write_report(folder: Path, summary: dict[str, Any]) -> None:
    """Write rate_distortion.csv, .json and .png and index.html, and print the tables."""
    table, picture = summary["points"], folder / "rate_distortion.png"
    write_json(folder / "rate_distortion.json", summary)
    write_text(folder / "rate_distortion.csv", rate_distortion.csv_text(table))
    rate_distortion.draw(picture, table, summary["original"], summary["caption"])
    write_text(folder / "index.html", rate_distortion.html_page(summary, picture))
    print(text_table(*rate_distortion.point_table(table, summary["original"], rate_distortion.marked(summary))))
    if summary["differences"]:
        print(text_table(*rate_distortion.difference_table(summary["differences"])))
    print(f"{summary['caption']}\n{NOTE}")
    print(f"The report is {folder / 'index.html'}; the points are also in rate_distortion.csv and rate_distortion.json")


if __name__ == "__main__":
    main()
