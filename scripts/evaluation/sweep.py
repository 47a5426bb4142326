"""Steps x realism: quality, detail and time of sampling from the same tokens."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from data.scoring.images import score_native, to_native
from data.shards.reader import ShardReader
from modeling.flow import SamplerOptions
from modeling.titok import TiTok
from scripts.files.codec import compress, decompress, open_for
from utils import ranks
from utils.files import write_json, write_text
from utils.metrics import finite_mean, high_frequency_ratio
from utils.report.drawing.figures import COLORS, INK, save
from utils.report.tables import number, text_table

COLUMNS = {  # heading and decimals
    "steps": ("steps", 0),
    "realism": ("realism", 2),
    "psnr": ("PSNR (dB)", 2),
    "ssim": ("SSIM", 4),
    "high_frequency_ratio": ("HF energy", 3),
    "ms_per_frame": ("ms a frame", 2),
}


def sampler_options(steps: Sequence[int], realism: Sequence[float], sampler: str) -> list[SamplerOptions]:
    """The deterministic one-step decode, and each pair of a number of steps above 1 and a realism above 0."""
    pairs = [(count, blend) for count in steps for blend in realism if count > 1 and blend > 0]
    return [SamplerOptions(), *(SamplerOptions(count, blend, 0, sampler) for count, blend in pairs)]


def sweep(
    model: TiTok, reader: ShardReader, patients: Sequence[str], options: Sequence[SamplerOptions]
) -> list[dict[str, Any]]:
    """One row for each set of sampler options: means over patients, on native voxels; the ranks divide the patients.

    Args:
        model: in eval mode on its device, with a DiT.
        reader: of the split.
        patients: names of the patients to score.
        options: the sets of sampler options.
    """
    scores: dict[SamplerOptions, list[dict[str, float]]] = {option: [] for option in options}
    own = ranks.share(patients)
    bar = tqdm(total=len(own) * len(options), desc="sweep", unit="decode")
    for patient in own:
        reference = open_for(model, reader.read_case(patient))
        data, frames = compress(model, reference), reference.original.shape[0] * reference.original.shape[1]
        for option in options:
            start = time.perf_counter()
            grid = decompress(model, data, option)  # returns on the CPU, so the device has finished
            spent = 1e3 * (time.perf_counter() - start) / frames
            native = to_native(reference, grid)
            quality = score_native(reference, native)
            ratio = high_frequency_ratio(reference.original, native)
            scores[option].append({"psnr": quality["psnr"], "ssim": quality["ssim"], "high_frequency_ratio": ratio,
                                   "ms_per_frame": spent})  # fmt: skip
            bar.update()
    bar.close()
    of_all = {option: ranks.gather(rows) for option, rows in scores.items()}
    return [
        {**option._asdict(), **{key: finite_mean([row[key] for row in rows]) for key in rows[0]}}
        for option, rows in of_all.items()
    ]


def table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for the terminal."""
    cells = [[number(row[key], decimals) for key, (_, decimals) in COLUMNS.items()] for row in rows]
    return text_table([heading for heading, _ in COLUMNS.values()], cells)


def draw(rows: Sequence[dict[str, Any]], path: Path, caption: str) -> None:
    """Save quality, detail and time over realism, one line for each number of steps; realism 0 is one-step decoding."""
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    one_step = rows[0]
    for ax, key in zip(figure.subplots(1, 4), list(COLUMNS)[2:], strict=True):
        for color, steps in zip(COLORS, sorted({row["steps"] for row in rows[1:]}), strict=False):
            line = [one_step, *(row for row in rows[1:] if row["steps"] == steps)]
            ax.plot([row["realism"] for row in line], [row[key] for row in line], "o-", color=color, markersize=3,
                    label=f"{steps} steps")  # fmt: skip
        ax.set_xlabel("realism", color=INK, fontsize=8)
        ax.set_ylabel(COLUMNS[key][0], color=INK, fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(caption, fontsize=9, color=INK)
    save(figure, path)


def write(rows: Sequence[dict[str, Any]], about: dict[str, Any], folder: Path, caption: str) -> None:
    """Write sweep.json, sweep.csv and sweep.png."""
    write_json(folder / "sweep.json", {**about, "threads": torch.get_num_threads(), "rows": list(rows)})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "sweep.csv", stream.getvalue())
    draw(rows, folder / "sweep.png", caption)
