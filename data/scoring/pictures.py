"""The pictures of an evaluation: three patients, agreement of volumes, PSNR over the cycle.

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
    *(f"{rank}_{kind}.png" for rank in ("best", "median", "worst") for kind in ("frames", "overlays", "profile")),
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
    """Save the pictures of the patients with best, median and worst PSNR, each decoded again.

    Args:
        reconstruct: case -> the patient on both grids, and the reconstruction (S, S, D, T).
        reader: of the split.
        rows: of the reported model.
        summary: as in summary.json.
        folder: where the .png files go.
        segmenter: for the contours; None for pictures without contours.
    """
    drawn = []
    for rank, row in tqdm(evaluation.choose(rows).items(), desc="pictures", unit="patient"):
        reference, grid = reconstruct(reader.read_case(row["patient"]))
        picture = picture_of(reference, grid, row, evaluation.caption(row, summary))
        title = f"{rank.capitalize()} patient"
        path = folder / f"{rank}_frames.png"
        figures.draw_frames(path, picture)
        text = f"{picture.caption}. Three slices at two phases; the error has one fixed scale."
        drawn.append(evaluation.Figure(title, text, path))
        truth = truth_in_field(reference)
        if segmenter and truth:
            path = folder / f"{rank}_overlays.png"
            original = segment(segmenter, reference, to_native(reference, reference.prepared.image[0]))
            decoded = segment(segmenter, reference, picture.reconstruction)
            overlays.draw_overlays(path, at_labels(picture, reference.case, truth), truth, original, decoded)
            text = f"{picture.caption}. Contours of the ground truth, and of one segmenter on both images."
            drawn.append(evaluation.Figure(f"{title}: structures", text, path))
        if row["phases"] > 1:
            path = folder / f"{rank}_profile.png"
            figures.draw_profile(path, picture)
            text = f"{picture.caption}. The pixels of one line through the heart, phase after phase."
            drawn.append(evaluation.Figure(f"{title}: motion", text, path))
    return drawn


def picture_of(reference: Reference, grid: np.ndarray, row: Row, caption: str) -> figures.Picture:
    """The data of one patient's pictures.

    Args:
        reference: the patient.
        grid: (S, S, D, T) the reconstruction.
        row: of per_patient.csv.
        caption: patient, data, quality and rate.
    """
    case, (rows, _) = reference.case, reference.box
    center = round(preprocess.place(case).center[0])
    area = None if reference.heart is None else reference.heart.sum((1, 2))
    return figures.Picture(
        original=reference.original,
        reconstruction=to_native(reference, grid),
        spacing_mm=case.spacing_mm[:2],
        slices=figures.pick_slices(row["slices"], area),
        phases=figures.pick_phases(row["phases"], case.ed, case.es),
        heart_row=int(np.clip(center, rows.start, rows.stop - 1)) - rows.start,
        caption=caption,
    )


def at_labels(picture: figures.Picture, case: CineCase, truth: dict[str, np.ndarray]) -> figures.Picture:
    """The picture at the labelled key frames, in the order of `truth`."""
    labelled = labelled_phases(case)
    phases = [(labelled[name], f"{name}, phase {labelled[name] + 1} of {case.cine.shape[3]}") for name in truth]
    return replace(picture, phases=phases)


def draw_agreement(rows: Sequence[Row], summary: Row, folder: Path) -> list[evaluation.Figure]:
    """Save the agreement of volumes with the ground truth, where at least two patients have labels at ED."""
    hearts = [row for row in heart.scored_patients(rows) if np.isfinite(row["lv_edv"] - row["lv_edv_truth"])]
    if len(hearts) < 2:
        return []
    names = {key: heart.MEASURED[key] for key in ("lv_edv", "lv_ef", "rv_ef")}
    text = (
        f"{summary['model']} on {summary['data']}, {summary['split']}: segmented reconstructions against ground truth"
    )
    path = folder / "agreement.png"
    overlays.draw_agreement(path, {name: heart.pairs(hearts, key) for key, name in names.items()}, text)
    return [evaluation.Figure("Agreement of volumes", f"{text}; Bland-Altman, one point a patient", path)]


def draw_curve(rows: dict[str, list[Row]], summary: Row, folder: Path) -> evaluation.Figure:
    """Save PSNR over the cycle for the reported model, its baselines and the other models."""
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
        "PSNR over the cycle", f"{text}; the band is one standard deviation", folder / "psnr_over_phases.png"
    )
