"""Any folder of 4-D NIfTI cines, with or without masks.

    NAME.nii.gz                            the cine (H, W, D, T); NAME becomes the patient's name
    NAME_gt.nii.gz                         its labels (H, W, D, T); a phase is labelled if it holds any label
    NAME_ed_gt.nii.gz, NAME_es_gt.nii.gz   or, if there is no NAME_gt, the labels (H, W, D) of ED and ES
    cases.csv                              optional, in the input folder, one row a patient: patient,ed,es,group,
                                           height_cm,weight_kg; phases count from 0; only patient is required

Masks are in the folder of their cine; labels are 0 background, 1 RV, 2 MYO, 3 LV. `.nii` and `.nii.gz` are both read.
In a patient's name, characters other than letters, digits, - and _ become _. Values that are not in cases.csv are
unknown. Links are followed. If a cine is a broken link, the file of its patient is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from data.case import CaseRefused, CineCase
from data.nifti.volume import Volume, find_nifti, read_mask, read_masks, read_nifti
from data.sources._common import (
    BROKEN_LINK,
    add_once,
    below,
    check_folder,
    files_below,
    hash_files,
    is_broken_link,
    measure,
    phase_of,
    read_rows,
    refuse_empty_frames,
)

CASES = "cases.csv"
COLUMNS = {"patient", "ed", "es", "group", "height_cm", "weight_kg"}
NIFTI_NAME = re.compile(r"(?P<stem>[^.].*)\.nii(\.gz)?")  # no hidden files: some systems leave a `._NAME` beside each


@dataclass
class Options:
    """Which files to read.

    Args:
        input_dir: the dataset's folder.
        pattern: glob of the cines in it; masks (`*_gt`) and hidden files are never cines.
    """

    input_dir: str
    pattern: str = "**/*.nii*"


def build(options: Options) -> NiftiSource:
    """The source that the options describe."""
    return NiftiSource(Path(options.input_dir), options.pattern)


class NiftiSource:
    """Lists and loads the cines of a folder."""

    name, modality = "nifti", "4d_mri"

    def __init__(self, input_dir: Path, pattern: str = "**/*.nii*") -> None:
        check_folder(input_dir)
        self.cines, self._unread_files = _find_cines(input_dir, pattern)
        table = input_dir / CASES
        if not table.is_file() and (table.exists() or table.is_symlink()):
            raise ValueError(
                f"{table}: is {BROKEN_LINK if is_broken_link(table) else 'not a file'}; correct it or remove it"
            )
        self.rows = _read_cases(table, set(self.cines)) if table.is_file() else {}

    def patients(self) -> list[str]:
        """Names of the patients, sorted; reads no image."""
        return list(self.cines)

    def unread_files(self) -> dict[str, str]:
        """Files below the folder that are not read: path -> reason."""
        return self._unread_files

    def group(self, patient: str) -> str | None:
        """Diagnosis from cases.csv, None if unknown."""
        return self._row(patient).get("group")

    def held_out(self, patient: str) -> bool:
        """Always False: a folder of files has no test set."""
        return False

    def source_hash(self, patient: str) -> str:
        """blake2b over the files that `load` reads and the patient's row of cases.csv."""
        return hash_files([self.cines[patient], *self._masks(patient).values()], self._row(patient))

    def load(self, patient: str) -> CineCase:
        """Read one patient.

        Raises:
            CaseRefused: with the rule, the patient, the file and the problem.
        """
        row = self._row(patient)
        volume = read_nifti(self.cines[patient], 4, patient)
        key_frames = {key: phase_of(row, key, CASES, patient) for key in ("ed", "es")}
        case = CineCase(
            patient, volume.stored, self._read_masks(patient, volume, key_frames), volume.grid.spacing_mm,
            volume.grid.affine, key_frames["ed"], key_frames["es"], row.get("group"), measure(row.get("height_cm")),
            measure(row.get("weight_kg")), volume.slope, volume.intercept, self.source_hash(patient),
            **volume.header,
        )  # fmt: skip
        refuse_empty_frames(case)
        return case

    def _row(self, patient: str) -> dict[str, str]:
        return self.rows.get(patient, {})

    def _masks(self, patient: str) -> dict[str, Path]:
        return _masks_of(self.cines[patient])

    def _read_masks(self, patient: str, cine: Volume, key_frames: dict[str, int | None]) -> dict[int, np.ndarray]:
        paths = self._masks(patient)
        if "all" in paths:
            return read_masks(paths["all"], patient, cine)
        masks = {}
        for key, path in paths.items():
            if (phase := key_frames[key]) is None:
                message = f"{path.name} exists, but {CASES} does not give the phase of {key}; add it to {CASES}"
                raise CaseRefused("no_key_frame", patient, message)
            masks[phase] = read_mask(path, patient, cine)
        return masks


def _stem(path: Path) -> str:
    match = NIFTI_NAME.fullmatch(path.name)
    return match["stem"] if match else ""


def _masks_of(cine: Path) -> dict[str, Path]:
    """Label files that exist: {all: NAME_gt}, or {ed: NAME_ed_gt, es: NAME_es_gt}."""
    stem = _stem(cine)
    if (whole := find_nifti(cine.parent, f"{stem}_gt")) is not None:
        return {"all": whole}
    paths = {key: find_nifti(cine.parent, f"{stem}_{key}_gt") for key in ("ed", "es")}
    return {key: path for key, path in paths.items() if path is not None}


def _find_cines(input_dir: Path, pattern: str) -> tuple[dict[str, Path], dict[str, str]]:
    """Patient -> cine, including broken links; and path -> reason why it is not read."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern:
        raise ValueError(f"pattern is {pattern!r}, expected a glob inside {input_dir}, such as **/*.nii*")
    files, unread = files_below(input_dir)
    cines: dict[str, Path] = {}
    names: dict[str, str] = {}  # of the files behind all links
    masks = []
    for path in files:
        name, stem, real = below(input_dir, path), _stem(path), os.path.realpath(path)
        if stem.endswith("_gt"):
            masks.append(path)
        elif not stem:
            unread |= {} if name == CASES else {name: BROKEN_LINK if is_broken_link(path) else "not a NIfTI file name"}
        elif not _matches(Path(name).parts, Path(pattern).parts):
            unread[name] = "does not match the pattern"
        elif not (path.is_file() or path.is_symlink()):
            unread[name] = "not a regular file"
        elif real in names:
            unread[name] = f"the same file as {names[real]}"
        else:
            names[real] = name
            add_once(cines, _safe(stem), path)
    if not cines:
        raise ValueError(f"{input_dir}: no cines found; expected 4-D NIfTI files that match {pattern}")
    read = {mask for cine in cines.values() for mask in _masks_of(cine).values()}
    stems = {(path.parent, _stem(path)) for path in cines.values()}
    for mask in (mask for mask in masks if mask not in read):
        has_cine = (mask.parent, re.sub(r"(_ed|_es)?_gt$", "", _stem(mask))) in stems
        unread[below(input_dir, mask)] = "other labels of its cine are read" if has_cine else "labels without a cine"
    return {patient: cines[patient] for patient in sorted(cines)}, unread


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a glob, in which ** stands for any folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _read_cases(path: Path, patients: set[str]) -> dict[str, dict[str, str]]:
    rows = {_safe(name): row for name, row in read_rows(path, "patient").items()}
    if unknown := sorted(rows.keys() - patients):
        raise ValueError(f"{path.name}: lists {', '.join(unknown[:5])}, but these cines do not exist; correct them")
    if other := sorted({column for row in rows.values() for column in row} - COLUMNS):
        raise ValueError(
            f"{path.name}: has the unknown column {other[0]}, known: {', '.join(sorted(COLUMNS))}; rename it"
        )
    return rows
