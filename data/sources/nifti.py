"""Any folder of 4-D NIfTI cines, with masks where there are any.

    NAME.nii.gz                            the cine (H, W, D, T); NAME becomes the patient's name
    NAME_gt.nii.gz                         its labels (H, W, D, T); labelled phases are those that hold any label
    NAME_ed_gt.nii.gz, NAME_es_gt.nii.gz   or, where there is no NAME_gt, the labels (H, W, D) of ED and ES
    cases.csv                              optional, in the input folder, a line a patient: patient,ed,es,group,
                                           height_cm,weight_kg; phases count from 0; all but patient may be missing

Masks stand beside their cine; labels are 0 background, 1 RV, 2 MYO, 3 LV. `.nii` is read as well as `.nii.gz`. In a
patient's name whatever is not a letter, digit, - or _ becomes _. What cases.csv does not tell is unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import CaseRefused, CineCase
from data.nifti import Volume, find_nifti, read_mask, read_masks, read_nifti
from data.sources._common import (
    add_once,
    check_folder,
    hash_files,
    measure,
    phase_of,
    read_table,
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
        pattern: which files in it are cines, as a glob; masks (`*_gt`) and hidden files are never taken for one.
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
        self.cines = _find_cines(input_dir, pattern)
        table = input_dir / CASES
        self.rows = _read_cases(table, set(self.cines)) if table.is_file() else {}

    def patients(self) -> list[str]:
        """Names of the patients, sorted; reads no image."""
        return list(self.cines)

    def group(self, patient: str) -> str | None:
        """Diagnosis from cases.csv, None where it is not told."""
        return self._row(patient).get("group")

    def held_out(self, patient: str) -> bool:
        """Never: a folder of files has no test set of its own."""
        return False

    def source_hash(self, patient: str) -> str:
        """blake2b over the files that `load` reads and the patient's line of cases.csv."""
        return hash_files([self.cines[patient], *self._masks(patient).values()], self._row(patient))

    def load(self, patient: str) -> CineCase:
        """Read one patient.

        Raises:
            CaseRefused: naming the rule, the patient and what is wrong, with the file at fault.
        """
        row = self._row(patient)
        volume = read_nifti(self.cines[patient], 4, patient)
        key_frames = {key: phase_of(row, key, CASES, patient) for key in ("ed", "es")}
        case = CineCase(
            patient, volume.stored, self._read_masks(patient, volume, key_frames), volume.grid.spacing_mm,
            volume.grid.affine, key_frames["ed"], key_frames["es"], row.get("group"), measure(row.get("height_cm")),
            measure(row.get("weight_kg")), volume.slope, volume.intercept, self.source_hash(patient),
        )  # fmt: skip
        refuse_empty_frames(case)
        return case

    def _row(self, patient: str) -> dict[str, str]:
        return self.rows.get(patient, {})

    def _masks(self, patient: str) -> dict[str, Path]:
        """Label files: {all: NAME_gt}, or what there is of {ed: NAME_ed_gt, es: NAME_es_gt}."""
        cine = self.cines[patient]
        stem = _stem(cine)
        if (whole := find_nifti(cine.parent, f"{stem}_gt")) is not None:
            return {"all": whole}
        found = {key: find_nifti(cine.parent, f"{stem}_{key}_gt") for key in ("ed", "es")}
        return {key: path for key, path in found.items() if path is not None}

    def _read_masks(self, patient: str, cine: Volume, key_frames: dict[str, int | None]) -> dict[int, np.ndarray]:
        paths = self._masks(patient)
        if "all" in paths:
            return read_masks(paths["all"], patient, cine)
        masks = {}
        for key, path in paths.items():
            if (phase := key_frames[key]) is None:
                message = f"{path.name} is there, but {CASES} does not say which phase is {key}; add it to {CASES}"
                raise CaseRefused("no_key_frame", patient, message)
            masks[phase] = read_mask(path, patient, cine)
        return masks


def _stem(path: Path) -> str:
    match = NIFTI_NAME.fullmatch(path.name)
    return match["stem"] if match else ""


def _find_cines(input_dir: Path, pattern: str) -> dict[str, Path]:
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern:
        raise ValueError(f"pattern is {pattern!r}, expected a glob inside {input_dir}, such as **/*.nii*")
    found: dict[str, Path] = {}
    for path in sorted(input_dir.glob(pattern)):
        stem = _stem(path)
        if path.is_file() and stem and not stem.endswith("_gt"):
            add_once(found, _safe(stem), path)
    if not found:
        raise ValueError(f"{input_dir}: no cines found; expected 4-D NIfTI files that match {pattern}")
    return {patient: found[patient] for patient in sorted(found)}


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _read_cases(path: Path, patients: set[str]) -> dict[str, dict[str, str]]:
    rows = {_safe(name): row for name, row in read_table(path, "patient").items()}
    if unknown := sorted(rows.keys() - patients):
        raise ValueError(f"{path.name}: lists {', '.join(unknown[:5])}, but there are no such cines; correct the names")
    if other := sorted({column for row in rows.values() for column in row} - COLUMNS):
        raise ValueError(f"{path.name}: has the column {other[0]}, expected {', '.join(sorted(COLUMNS))}; rename it")
    return rows
