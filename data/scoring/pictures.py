"""Pictures of an evaluation: quality over bytes, chosen patients, agreement of volumes, PSNR over the cycle.

Axes: h and w height and width of the field, D slices, T phases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from utils.report import evaluation, heart
from utils.report.drawing import figures, overlays, plots
from utils.report.drawing.cine import draw_cine

Row = dict[str, Any]
Reconstruct = Callable[[CineCase], tuple[Reference, np.ndarray]]


CHOSEN = ("best", "median", "worst", "worst_dice")  # names of patients, see `evaluation.choose`
NAMES = (  # file names of all figures of a report
    *(f"{name}_{kind}.png" for name in CHOSEN for kind in ("frames", "overlays", "profile")),
    *("agreement.png", "psnr_over_phases.png", "rates.png"),
)


def draw(
    reconstruct: Mapping[str, Reconstruct],
    reader: ShardReader,
    rows: Mapping[str, Sequence[Row]],
    summary: Row,
    folder: Path,
    segmenter: ReferenceSegmenter | None,
) -> evaluation.Pictures:
    """Save the figures of a report, and draw its cines; the patients that are shown are decoded again.

    Args:
        reconstruct: model -> function of a case: the original of the patient, and the reconstruction (D, T, h, w)
            inside the field.
        reader: reader of the split.
        rows: model -> one row per patient, the reported model last.
        summary: content of summary.json.
        folder: folder for the .png files.
        segmenter: segmenter of the contours; None for no contours.

    Returns:
        All pictures of the page.
    """
    reported = rows[summary["model"]]
    chosen = evaluation.choose(reported)
    typical = next((one for one in chosen if one.name == "median"), chosen[0])
    patients, cines, about = [], [], ""
    for one in tqdm(chosen, desc="pictures", unit="patient"):
        case = reader.read_case(one.row["patient"])
        reference, native = reconstruct[summary["model"]](case)
        picture = picture_of(reference, native, one.row, evaluation.caption(one.row, summary))
        patient = draw_patient(one, reference, picture, folder, segmenter)
        if one is not typical:
            patient = patient._replace(cines=[cine_of(picture, "Cine", middle_slice(picture)[1])])
        patients.append(patient)
        if one is typical:
            about = f"{one.row['patient']} ({one.reason} of {summary['model']}), {middle_slice(picture)[1]}"
            for name in evaluation.models_in_pictures(summary):
                pair = (reference, native) if name == summary["model"] else reconstruct[name](case)
                row = next(row for row in rows[name] if row["patient"] == one.row["patient"])
                text = evaluation.quality_text(row)
                cines.append(cine_of(picture_of(*pair, row, text), name, text))
    return evaluation.Pictures(
        rates=draw_rates(summary, folder),
        cines=cines,
        cines_text=about,
        agreement=draw_agreement(reported, summary, folder),
        cycle=draw_curve(rows, summary, folder),
        patients=patients,
    )


def draw_patient(
    chosen: evaluation.Chosen,
    reference: Reference,
    picture: figures.Picture,
    folder: Path,
    segmenter: ReferenceSegmenter | None,
) -> evaluation.Patient:
    """Save the figures of one patient; its cines are not drawn.

    Args:
        chosen: the patient.
        reference: its original.
        picture: the data of its figures.
        folder: folder for the .png files.
        segmenter: segmenter of the contours; None for no contours.
    """
    name, truth = chosen.name, truth_in_field(reference)
    text = "Three slices at two phases; the error has one fixed scale."
    drawn = [evaluation.Figure("Frames", text, figures.draw_frames(folder / f"{name}_frames.png", picture))]
    if segmenter and truth:
        original = segment(segmenter, reference, to_native(reference, reference.prepared.image[0]))
        decoded = segment(segmenter, reference, picture.reconstruction)
        labelled, path = at_labels(picture, reference.case, truth), folder / f"{name}_overlays.png"
        text = "Contours of the ground truth, and of one segmenter on both images."
        drawn.append(
            evaluation.Figure("Structures", text, overlays.draw_overlays(path, labelled, truth, original, decoded))
        )
    if chosen.row["phases"] > 1:
        text = "The pixels of one line through the heart, phase after phase."
        drawn.append(evaluation.Figure("Motion", text, figures.draw_profile(folder / f"{name}_profile.png", picture)))
    heading = f"{chosen.row['patient']}: {chosen.reason}"
    return evaluation.Patient(heading, picture.caption, [], drawn)


def middle_slice(picture: figures.Picture) -> tuple[int, str]:
    """Return the middle one of the chosen slices: zero-based slice, and its name."""
    z, name = picture.slices[len(picture.slices) // 2]
    return z, name.replace("\n", " ")


def cine_of(picture: figures.Picture, name: str, text: str) -> evaluation.CineRow:
    """Draw the cine of the middle slice.

    Args:
        picture: the patient, by one model.
        name: name of the row.
        text: what it shows.
    """
    z, _ = middle_slice(picture)
    cine = draw_cine(picture.original[z], picture.reconstruction[z], picture.spacing_mm, picture.phases[0][0])
    loss = f" (moving picture: {cine.loss})" if cine.loss else ""
    return evaluation.CineRow(name, f"{text}{loss}", cine)


def picture_of(reference: Reference, native: np.ndarray, row: Row, caption: str) -> figures.Picture:
    """Return the data of the figures of one patient.

    Args:
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.
        row: row of per_patient.csv.
        caption: patient, data, quality and rate.
    """
    case, (rows, _) = reference.case, reference.box
    center = round(preprocess.place(case).center[0])
    area = None if reference.heart is None else reference.heart.sum((1, 2))
    return figures.Picture(
        original=reference.original,
        reconstruction=native,
        spacing_mm=case.spacing_mm[:2],
        slices=figures.pick_slices(row["slices"], area),
        phases=figures.pick_phases(row["phases"], case.ed, case.es),
        heart_row=int(np.clip(center, rows.start, rows.stop - 1)) - rows.start,
        caption=caption,
    )


def at_labels(picture: figures.Picture, case: CineCase, truth: dict[str, np.ndarray]) -> figures.Picture:
    """Return the picture with only the labelled key frames, in the order of `truth`."""
    labelled = labelled_phases(case)
    phases = [(labelled[name], f"{name}, phase {labelled[name] + 1} of {case.cine.shape[3]}") for name in truth]
    return replace(picture, phases=phases)


def draw_rates(summary: Row, folder: Path) -> evaluation.Figure | None:
    """Save the figure of PSNR and Dice over bytes a frame; None for fewer than two models with a rate.

    Args:
        summary: content of summary.json.
        folder: folder for the .png file.
    """
    points = evaluation.rate_points(summary)
    if len(points) < 2:
        return None
    text = f"{summary['data']}, {summary['split']}, mean over patients, n = {summary['n']}"
    original = summary["mean"].get("dice_mean_original", np.nan)
    svg = plots.draw_rates(folder / "rates.png", points, original, text)
    return evaluation.Figure(
        "Quality over bytes", f"{text}. Each model is scored in its own field, with its whole files.", svg
    )


def draw_agreement(rows: Sequence[Row], summary: Row, folder: Path) -> evaluation.Figure | None:
    """Save the Bland-Altman figure of volumes and EF; None for fewer than two patients with labels at ED.

    Args:
        rows: rows of the reported model, one per patient.
        summary: content of summary.json.
        folder: folder for the .png file.
    """
    hearts = [row for row in heart.scored_patients(rows) if np.isfinite(row["lv_edv"] - row["lv_edv_truth"])]
    if len(hearts) < 2:
        return None
    names = {key: heart.MEASURED[key] for key in ("lv_edv", "lv_ef", "rv_ef")}
    text = (
        f"{summary['model']} on {summary['data']}, {summary['split']}: segmented reconstructions against ground truth"
    )
    pairs = {name: heart.pairs(hearts, key) for key, name in names.items()}
    svg = overlays.draw_agreement(folder / "agreement.png", pairs, text)
    return evaluation.Figure("Agreement of volumes", f"{text}; Bland-Altman, one point per patient", svg)


def draw_curve(rows: Mapping[str, Sequence[Row]], summary: Row, folder: Path) -> evaluation.Figure:
    """Save the figure of PSNR over the cycle for the reported model, its baselines and the other models.

    Args:
        rows: model -> one row per patient, the reported model last.
        summary: content of summary.json.
        folder: folder for the .png file.
    """
    *others, model = rows
    curves = {model: [row["curve"] for row in rows[model]]}
    for name in summary["baselines"]:
        curves[f"baseline: {name}"] = [row["baselines"][name]["curve"] for row in rows[model]]
    curves |= {name: [row["curve"] for row in rows[name]] for name in others}
    data = f"{summary['data']}, {summary['split']}, mean over patients, n = {summary['n']}"
    text = f"{model} at {evaluation.rate_text(summary['mean'])}; {data}"
    svg = plots.draw_phase_curve(folder / "psnr_over_phases.png", curves, text)
    return evaluation.Figure("PSNR over the cycle", f"{text}; the band is one standard deviation", svg)
