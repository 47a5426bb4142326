"""The M&Ms challenge of 2020 (Multi-Centre, Multi-Vendor & Multi-Disease) in its original layout.

    211230_M&Ms_Dataset_information_diagnosis_opendataset.csv   one row a patient, see CODE to WEIGHT
    Training/Labeled/CODE/CODE_sa.nii.gz                        the short-axis cine (H, W, D, T)
    Training/Labeled/CODE/CODE_sa_gt.nii.gz                     its labels (H, W, D, T), at ED and ES
    Training/Unlabeled/CODE, Validation/CODE, Testing/CODE      the same; the masks of Unlabeled are empty

The input folder is the folder with the CSV, or a folder that contains it as `OpenDataset`. ED and ES count from 0. For
unlabelled patients both are 0, which means unknown. The labels of the challenge are 1 LV, 2 MYO, 3 RV.
Source: Campello et al., Multi-centre, multi-vendor and multi-disease cardiac segmentation: the M&Ms challenge, IEEE
TMI 40(12), 2021; layout and label order follow CineMA (mathpluscode/CineMA, cinema/data/mnms).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.case import CaseRefused, CineCase
from data.nifti.volume import find_nifti, read_masks, read_nifti
from data.sources._common import (
    add_once,
    check_folder,
    entries_but,
    hash_files,
    is_broken_link,
    measure,
    phase_of,
    read_rows,
    refuse_empty_frames,
)

PARTS = ("Training/Labeled", "Training/Unlabeled", "Validation", "Testing")
TABLE = "*M&Ms*opendataset.csv"  # it begins with a date, which differs between releases
LABEL_ORDER = (0, 3, 2, 1)  # this project's label for each label of the challenge: 1 LV, 2 MYO, 3 RV
CODE, GROUP, HEIGHT, WEIGHT = "External code", "Pathology", "Height", "Weight"


@dataclass
class Options:
    """Which cases to read.

    Args:
        input_dir: the dataset's folder.
    """

    input_dir: str


def build(options: Options) -> MnmsSource:
    """The source that the options describe."""
    return MnmsSource(Path(options.input_dir))


class MnmsSource:
    """Lists and loads the patients of an M&Ms folder."""

    name, modality = "mnms", "4d_mri"

    def __init__(self, input_dir: Path) -> None:
        check_folder(input_dir)
        root = input_dir / "OpenDataset" if (input_dir / "OpenDataset").is_dir() else input_dir
        tables = sorted(root.glob(TABLE))
        if len(tables) != 1:
            raise ValueError(f"{root}: holds {len(tables)} files {TABLE}, expected one; give the folder with the CSV")
        self.table = tables[0].name
        self.rows = read_rows(tables[0], CODE)
        self.root, self.folders = root, _find_patients(root)

    def patients(self) -> list[str]:
        """Codes of the patients, sorted; reads no image."""
        return list(self.folders)

    def unread_files(self) -> dict[str, str]:
        """Files and rows that are not read: path below the folder, or code in the CSV -> reason."""
        parts = [self.root / part for part in PARTS]
        known = [self.root / self.table, self.root / "Training", *parts, *self.folders.values()]
        absent = {code: f"a row of {self.table} without a folder" for code in self.rows if code not in self.folders}
        stems = [(folder, f"{patient}_sa{end}") for patient, folder in self.folders.items() for end in ("", "_gt")]
        files = [path for folder, stem in stems if (path := find_nifti(folder, stem)) is not None]
        other = entries_but(self.folders.values(), files, self.root, "not the cine or its labels")
        return {**entries_but([self.root, self.root / "Training", *parts], known, self.root), **other, **absent}

    def group(self, patient: str) -> str | None:
        """Diagnosis from the CSV, None if unknown."""
        return self._row(patient).get(GROUP)

    def held_out(self, patient: str) -> bool:
        """Whether the patient belongs to the challenge's own test set."""
        return self.folders[patient].parent.name == "Testing"

    def source_hash(self, patient: str) -> str:
        """blake2b over the files that `load` reads and the patient's row of the CSV."""
        mask = self._mask(patient)
        return hash_files([self._cine(patient), *([mask] if mask else [])], self._row(patient))

    def load(self, patient: str) -> CineCase:
        """Read one patient.

        Raises:
            CaseRefused: with the rule, the patient, the file and the problem.
        """
        row, mask = self._row(patient), self._mask(patient)
        volume = read_nifti(self._cine(patient), 4, patient)
        masks = read_masks(mask, patient, volume, LABEL_ORDER) if mask else {}
        ed, es = self._key_frames(patient)
        case = CineCase(
            patient, volume.stored, masks, volume.grid.spacing_mm, volume.grid.affine, ed, es, row.get(GROUP),
            measure(row.get(HEIGHT)), measure(row.get(WEIGHT)), volume.slope, volume.intercept,
            self.source_hash(patient), **volume.header,
        )  # fmt: skip
        refuse_empty_frames(case)
        return case

    def _row(self, patient: str) -> dict[str, str]:
        return self.rows.get(patient, {})

    def _unlabelled(self, patient: str) -> bool:
        return self.folders[patient].parent.name == "Unlabeled"

    def _key_frames(self, patient: str) -> tuple[int | None, int | None]:
        if self._unlabelled(patient):
            return None, None
        if patient not in self.rows:
            raise CaseRefused("no_key_frame", patient, f"{self.table} has no row for it; download the newest table")
        row = self._row(patient)
        return phase_of(row, "ED", self.table, patient), phase_of(row, "ES", self.table, patient)

    def _cine(self, patient: str) -> Path:
        path = find_nifti(self.folders[patient], f"{patient}_sa")
        if path is None:
            raise CaseRefused("missing_file", patient, f"{patient}_sa.nii.gz is missing; re-download the case")
        return path

    def _mask(self, patient: str) -> Path | None:
        return None if self._unlabelled(patient) else find_nifti(self.folders[patient], f"{patient}_sa_gt")


def _find_patients(root: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for folder in (folder for part in PARTS for folder in sorted((root / part).glob("[!.]*"))):
        if folder.is_dir() or is_broken_link(folder):  # a broken link is a missing patient
            add_once(folders, folder.name, folder)
    if not folders:
        raise ValueError(f"{root}: no patients found; expected one folder a patient in {', '.join(PARTS)}")
    return {patient: folders[patient] for patient in sorted(folders)}
