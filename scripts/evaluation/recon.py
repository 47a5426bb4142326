"""Reconstructions by any other method: a folder of NIfTI cines, and the sizes of their compressed files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.case import CineCase
from data.nifti.grids import Grid, turned
from data.nifti.volume import find_nifti, read_nifti
from data.scoring.heart import ReferenceSegmenter
from data.scoring.images import Reference, cost, open_reference, score_native
from data.shards.reader import ShardReader
from data.window import normalize
from modeling.titok import TiTok
from scripts.evaluation.scoring import Row, about, heart_metrics, of_all_ranks, recording_failure
from scripts.files.codec import open_for
from utils import ranks
from utils.text import read_table

SIZES = "bytes.csv"  # name of the file list in the folder
WHOLE_IMAGE = "the whole image"
WITHOUT_MODEL = ("psnr_model_grid", "psnr_ceiling", "tokens")  # metrics of a model alone
RATES = ("bits", "bits_per_frame", "ratio_int16", "ratio_true_depth", "ratio_nii_gz")


def open_original(case: CineCase, model: TiTok | None) -> Reference:
    """The original of a patient in the field of a model; without a model, the whole image."""
    if model is None:
        return open_reference(case, max(case.cine.shape[:2]), "fit")
    return open_for(model, case)


class Recon(NamedTuple):
    """A folder of reconstructions.

    Args:
        folder: folder with PATIENT.nii.gz, PATIENT_4d.nii.gz or PATIENT/PATIENT_4d.nii.gz for each patient.
        sizes: patient -> bytes of its compressed file; empty if the folder has no list.
    """

    folder: Path
    sizes: dict[str, int]

    def file_of(self, patient: str) -> Path | None:
        """The reconstruction of a patient; None if the folder has none."""
        stems = ((self.folder, patient), (self.folder, f"{patient}_4d"), (self.folder / patient, f"{patient}_4d"))
        return next((path for where, stem in stems if (path := find_nifti(where, stem))), None)


def open_recon(folder: Path, patients: Sequence[str]) -> Recon:
    """Check a folder of reconstructions, and read its list of sizes.

    Args:
        folder: the folder; its optional bytes.csv has the columns patient and bytes.
        patients: names of the patients to score.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: the folder does not exist, or it has no reconstruction of a patient.
        ValueError: bytes.csv has other columns, or lacks a patient, or a size is not a number above 0.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"--recon_dir {folder}: no such folder; give the folder of the reconstructions")
    recon = Recon(folder, _sizes(folder / SIZES, patients) if (folder / SIZES).is_file() else {})
    missing = [patient for patient in patients if recon.file_of(patient) is None]
    if missing:
        raise FileNotFoundError(
            f"--recon_dir {folder}: there is no {missing[0]}.nii.gz, {missing[0]}_4d.nii.gz or .nii"
            f" ({len(missing)} of {len(patients)} patients have no reconstruction); add them, or use --limit"
        )
    return recon


def _sizes(path: Path, patients: Sequence[str]) -> dict[str, int]:
    table = read_table(path, ("patient", "bytes"))
    rows = {row["patient"]: row.get("bytes", "") for row in table}
    if len(rows) < len(table):
        names = [row["patient"] for row in table]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: has two rows for {twice}; remove one of them")
    for patient in patients:
        value = rows.get(patient)
        if value is None:
            raise ValueError(
                f"{path}: there is no line for {patient}; add it, or delete the file to score without rates"
            )
        if not re.fullmatch("[0-9]{1,15}", value) or int(value) == 0:
            raise ValueError(f"{path}: bytes of {patient} is {value!r}, expected a whole number above 0; correct it")
    return {patient: int(rows[patient]) for patient in patients}


def read_native(recon: Recon, reference: Reference) -> np.ndarray:
    """Read the reconstruction of a patient.

    Args:
        recon: the folder.
        reference: the original of the patient.

    Returns:
        (D, T, h, w) float32 in [0, 1]: the real values inside the field, mapped by the window of the original.

    Raises:
        ValueError: the file is damaged, or has another grid or shape than the original.
    """
    case = reference.case
    path = recon.file_of(case.patient)
    if path is None:
        raise ValueError(f"{recon.folder} has no reconstruction of {case.patient}")
    volume = read_nifti(path, 4, case.patient)
    is_placed = not np.allclose(case.affine, np.diag([*case.spacing_mm, 1.0]))
    try:
        stored = turned(volume.stored, volume.grid, Grid(case.spacing_mm, case.affine, is_placed), case.cine.shape[:3])
    except ValueError as error:
        raise ValueError(f"{volume.name} has another grid than the original: {error}; resample it") from error
    if stored.shape != case.cine.shape:
        raise ValueError(
            f"{volume.name} has shape {stored.shape}, the original has {case.cine.shape}; correct the file"
        )
    inside = stored[reference.box].astype(np.float64) * volume.slope + volume.intercept
    return normalize(inside.transpose(2, 3, 0, 1), reference.prepared.window)


def evaluate_recon(
    recon: Recon,
    model: TiTok | None,
    reader: ShardReader,
    patients: Sequence[str],
    segmenter: ReferenceSegmenter | None,
    originals: dict[str, Row],
    failed: dict[str, str],
) -> list[Row]:
    """Score a folder of reconstructions; the patients are divided among the ranks.

    Args:
        recon: the folder.
        model: the model whose field is compared; None for the whole image.
        reader: reader of the split.
        patients: names of the patients to score.
        segmenter: reference segmenter of originals and reconstructions; None for no heart metrics.
        originals: patient -> heart metrics of the original in this field; the new ones are added.
        failed: patient -> why it cannot be scored; the new ones are added.

    Returns:
        One row for each patient that can be scored, as `scripts.evaluation.scoring.evaluate`; metrics that need a
        model or a size of the file are None where there is none.
    """
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for patient in tqdm(ranks.share(patients), desc=f"evaluating {recon.folder.name}", unit="patient"):
        with recording_failure(patient, reader, failures):
            reference = open_original(reader.read_case(patient), model)
            native = read_native(recon, reference)
            size = recon.sizes.get(patient)
            row = {
                **about(reference),
                **score_native(reference, native),
                **heart_metrics(segmenter, reference, native, originals),
                **(cost(reference, size) if size else dict.fromkeys(RATES)),
                **dict.fromkeys(WITHOUT_MODEL),
                "baselines": {},
            }
            rows.append(row)
    return of_all_ranks(rows, patients, failures, failed)
