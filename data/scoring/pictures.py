"""The pictures of an evaluation: chosen patients, agreement of volumes, quality over the cycle.

Axes: S side of the model grid, D slices, T phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data import preprocess
from data.case import CineCase
from data.scoring.heart import ReferenceSegmenter, labelled_phases, segment, truth_in_field
from data.scoring.images import Reference, to_native
from data.shards.reader import ShardReader
from utils.report import evaluation, figures, heart, overlays

Row = dict[str, Any]
Reconstruct = Callable[[CineCase], tuple[Reference, np.ndarray]]


NAMES = (  # of all pictures that a report can have
    *(f"{which}_{what}.png" for which in ("best", "median", "worst") for what in ("frames", "overlays", "profile")),
    *("agreement.png", "psnr_over_phases.png"),
)


def draw(
    reconstruct: Reconstruct,
    reader: ShardReader,
    rows: Sequence[Row],
    summary: Row,
    folder: Path,
    segmenter: ReferenceSegmenter | None,
) -> list[evaluation.Figure]:
    """Save the pictures of the best, the median and the worst patient, decoded once more.

    Args:
        reconstruct: case -> the patient on both grids, and the reconstruction (S, S, D, T).
        reader: of the split.
        rows: of the reported model.
        summary: as in summary.json.
        folder: where the .png files go.
        segmenter: for the contours; none without.
    """
    drawn = []
    for name, row in tqdm(evaluation.choose(rows).items(), desc="pictures", unit="patient"):
        reference, grid = reconstruct(reader.read_case(row["patient"]))
        case, (top, _) = reference.case, reference.box
        decoded = to_native(reference, grid)
        row_of_heart = int(np.clip(round(preprocess.place(case).center[0]), top.start, top.stop - 1)) - top.start
        text = evaluation.caption(row, summary)
        picture = figures.Picture(
            original=reference.original,
            reconstruction=decoded,
            spacing_mm=case.spacing_mm[:2],
            slices=figures.pick_slices(row["slices"], None if reference.heart is None else reference.heart.sum((1, 2))),
            phases=figures.pick_phases(row["phases"], case.ed, case.es),
            heart_row=row_of_heart,
            caption=text,
        )
        figures.draw_frames(folder / f"{name}_frames.png", picture)
        shown = f"{text}. Three slices at two phases; the error has one fixed scale."
        drawn.append(evaluation.Figure(f"{name.capitalize()} patient", shown, folder / f"{name}_frames.png"))
        truth = truth_in_field(reference)
        if segmenter and truth:
            known = pick_known(picture, case, truth)
            path = folder / f"{name}_overlays.png"
            original = segment(segmenter, reference, reference.prepared.image[0])
            overlays.draw_overlays(path, known, truth, original, segment(segmenter, reference, grid))
            shown = f"{text}. Contours of truth and of the segmenter, which drew the same way on both."
            drawn.append(evaluation.Figure(f"{name.capitalize()} patient: structures", shown, path))
        if row["phases"] > 1:
            figures.draw_profile(folder / f"{name}_profile.png", picture)
            shown = f"{text}. The pixels of one line through the heart, phase after phase."
            drawn.append(
                evaluation.Figure(f"{name.capitalize()} patient: motion", shown, folder / f"{name}_profile.png")
            )
    return drawn


def pick_known(picture: figures.Picture, case: CineCase, truth: dict[str, np.ndarray]) -> figures.Picture:
    """The picture at the labelled key frames, in the order of `truth`."""
    places = labelled_phases(case)
    phases = [(places[name], f"{name}, phase {places[name] + 1} of {case.cine.shape[3]}") for name in truth]
    return replace(picture, phases=phases)


def draw_agreement(rows: Sequence[Row], summary: Row, folder: Path) -> list[evaluation.Figure]:
    """Save the agreement of volumes with the ground truth, where two patients or more have labels at ED."""
    hearts = [row for row in heart.judged(rows) if np.isfinite(row["lv_edv"] - row["lv_edv_truth"])]
    if len(hearts) < 2:
        return []
    names = {key: heart.MEASURED[key] for key in ("lv_edv", "lv_ef", "rv_ef")}
    text = f"{summary['model']} on {summary['data']}, {summary['split']}: reconstructions, as segmented, against truth"
    path = folder / "agreement.png"
    overlays.draw_agreement(path, {name: heart.pairs(hearts, key) for key, name in names.items()}, text)
    return [evaluation.Figure("Agreement of volumes", f"{text}; Bland-Altman, a point a patient", path)]


def draw_curve(rows: dict[str, list[Row]], summary: Row, folder: Path) -> evaluation.Figure:
    """Save PSNR over the cycle, of the reported model, its baselines and the other models."""
    *others, model = rows
    curves = {model: [row["curve"] for row in rows[model]]}
    for name in summary["baselines"]:
        curves[f"baseline: {name}"] = [row["baselines"][name]["curve"] for row in rows[model]]
    curves |= {name: [row["curve"] for row in rows[name]] for name in others}
    mean = summary["mean"]
    rate = f"{model} at {mean['bits_per_frame']:.0f} bits a frame ({mean['ratio_int16']:.0f}x against int16)"
    text = f"{rate}; {summary['data']}, {summary['split']}, mean over patients, n = {summary['n']}"
    figures.draw_phase_curve(folder / "psnr_over_phases.png", curves, text)
    return evaluation.Figure(
        "PSNR over the cycle", f"{text}; a band is one standard deviation", folder / "psnr_over_phases.png"
    )
