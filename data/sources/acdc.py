"""ACDC in its original layout: one folder a patient with Info.cfg, the 4-D cine, and ED and ES frames with masks.

    patient001/Info.cfg                      ED, ES (one-based), NbFrame, Group, Height, Weight
    patient001/patient001_4d.nii.gz          (H, W, D, T)
    patient001/patient001_frame01.nii.gz     (H, W, D), and patient001_frame01_gt.nii.gz with its labels

Patient folders are in the input folder, in `training/` and `testing/`, or in the same places below `database/`.
Source: Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and
diagnosis, IEEE TMI 37(11), 2018.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.case import CaseRefused, CineCase
from data.nifti.volume import Volume, find_nifti, on_grid_of, read_mask, read_nifti, without_fraction
from data.sources._common import (
    add_once,
    check_folder,
    entries_but,
    hash_files,
    is_broken_link,
    measure,
    refuse_empty_frames,
)
from utils.text import read_text

MODALITIES = ("4d_mri", "ed_es")
FOLDERS = ("", "training", "testing", "database", "database/training", "database/testing")
OTHER = "not Info.cfg, the cine, or the first file found of the image or the labels of ED or ES"
PATIENT_FOLDER = re.compile(r"patient[0-9]+")


@dataclass
class Options:
    """Which cases to read.

    Args:
        input_dir: the dataset's folder.
        modality: `4d_mri` for whole cines; `ed_es` for the two labelled frames as a cine of two phases (0 ED, 1 ES).
    """

    input_dir: str
    modality: str = "4d_mri"


def build(options: Options) -> AcdcSource:
    """The source that the options describe."""
    return AcdcSource(Path(options.input_dir), options.modality)


class AcdcSource:
    """Lists and loads the patients of an ACDC folder."""

    name = "acdc"

    def __init__(self, input_dir: Path, modality: str = "4d_mri") -> None:
        if modality not in MODALITIES:
            raise ValueError(f"modality is {modality!r}, expected one of {', '.join(MODALITIES)}")
        check_folder(input_dir)
        self.input_dir, self.modality = input_dir, modality
        folders = _find_patients(input_dir)
        self.folders = {name: folders[name] for name in sorted(folders)}
        if not self.folders:
            raise ValueError(
                f"{input_dir}: no patients found; expected folders with an Info.cfg, such as patient001, "
                "directly below it or in training/, testing/ or database/"
            )

    def patients(self) -> list[str]:
        """Names of the patients, sorted; reads no image."""
        return list(self.folders)

    def unread_files(self) -> dict[str, str]:
        """Files that are not read: path below the folder -> reason."""
        parents = [self.input_dir / name for name in FOLDERS]
        unread = entries_but(parents, [*parents, *self.folders.values()], self.input_dir)
        for patient, folder in self.folders.items():
            try:
                known = self._known(patient, _read_info(patient, folder / "Info.cfg"))
                unread |= entries_but([folder], known, self.input_dir, OTHER)
            except (CaseRefused, OSError):
                continue  # the conversion reports this
        return unread

    def group(self, patient: str) -> str | None:
        """Diagnosis from Info.cfg, None if unknown."""
        path = self.folders[patient] / "Info.cfg"
        try:
            return _read_keys(path).get("Group") if path.is_file() else None
        except (ValueError, OSError):
            return None  # `load` refuses the case

    def held_out(self, patient: str) -> bool:
        """Whether the patient belongs to the dataset's own test set, the folder `testing`."""
        return self.folders[patient].parent.name == "testing"

    def source_hash(self, patient: str) -> str:
        """blake2b over the files that `load` reads."""
        info = _read_info(patient, self.folders[patient] / "Info.cfg")
        masks = [path for path in self._masks(patient, info) if path is not None]
        return hash_files([self.folders[patient] / "Info.cfg", *self._images(patient, info), *masks])

    def load(self, patient: str) -> CineCase:
        """Read one patient.

        Raises:
            CaseRefused: with the rule, the patient, the file and the problem.
        """
        info = _read_info(patient, self.folders[patient] / "Info.cfg")
        whole = self.modality == "4d_mri"
        volumes = [read_nifti(path, 4 if whole else 3, patient) for path in self._images(patient, info)]
        cine, first = _cine_4d(patient, volumes[0], info) if whole else _cine_of_two(patient, volumes)
        ed, es = (info.ed, info.es) if whole else (0, 1)
        paths = zip((ed, es), self._masks(patient, info), strict=True)
        masks = {phase: read_mask(path, patient, first) for phase, path in paths if path is not None}
        case = CineCase(
            patient, cine, masks, first.grid.spacing_mm, first.grid.affine, ed, es, info.group, info.height_cm,
            info.weight_kg, first.slope, first.intercept, self.source_hash(patient),
            **first.header,
        )  # fmt: skip
        refuse_empty_frames(case)
        return case

    def _images(self, patient: str, info: Info) -> list[Path]:
        """The image files of this modality; the error for a missing file names the files that exist."""
        names = [f"{patient}_frame{phase + 1:02d}" for phase in (info.ed, info.es)]
        whole, *frames = (find_nifti(self.folders[patient], name) for name in (f"{patient}_4d", *names))
        if self.modality == "4d_mri":
            hint = "its ED and ES frames exist: convert with --modality ed_es" if all(frames) else None
            return [_required(patient, f"{patient}_4d", whole, hint)]
        hint = "its 4-D cine exists: convert with --modality 4d_mri" if whole else None
        return [_required(patient, name, path, hint) for name, path in zip(names, frames, strict=True)]

    def _known(self, patient: str, info: Info) -> list[Path]:
        """The files of a patient that one of the two modalities reads."""
        stems = [f"{patient}_4d", *(f"{patient}_frame{phase + 1:02d}" for phase in (info.ed, info.es))]
        folder = self.folders[patient]
        paths = [find_nifti(folder, stem) for stem in stems] + self._masks(patient, info)
        return [folder / "Info.cfg", *(path for path in paths if path is not None)]

    def _masks(self, patient: str, info: Info) -> list[Path | None]:
        """The label files of ED and ES, None if missing."""
        names = (f"{patient}_frame{phase + 1:02d}_gt" for phase in (info.ed, info.es))
        return [find_nifti(self.folders[patient], name) for name in names]


def _required(patient: str, name: str, path: Path | None, hint: str | None) -> Path:
    if path is None:
        raise CaseRefused("missing_file", patient, f"{name}.nii.gz is missing; {hint or 're-download the case'}")
    return path


def _find_patients(input_dir: Path) -> dict[str, Path]:
    folders: dict[str, Path] = {}
    for parent in (input_dir / name for name in FOLDERS):
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            is_folder = folder.is_dir() or is_broken_link(folder)  # a broken link is a missing patient
            is_patient = PATIENT_FOLDER.fullmatch(folder.name) or (folder / "Info.cfg").is_file()
            if folder.name.startswith(".") or not (is_folder and is_patient):
                continue
            if not re.fullmatch(r"[A-Za-z0-9_-]+", folder.name):
                raise ValueError(f"{folder}: expected a name of letters, digits, - and _ only; rename it")
            add_once(folders, folder.name, folder)
    return folders


@dataclass(frozen=True)
class Info:
    """Content of Info.cfg; phases count from 0 here and from 1 in the file."""

    ed: int
    es: int
    phases: int | None
    group: str | None
    height_cm: float | None
    weight_kg: float | None


def _read_keys(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in read_text(path).splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if value.strip()}


def _read_info(patient: str, path: Path) -> Info:
    if not path.is_file():
        what = "its folder is a broken link" if is_broken_link(path.parent) else "Info.cfg is missing"
        raise CaseRefused("missing_file", patient, f"{what}; re-download the case")
    try:
        keys = _read_keys(path)
    except ValueError as error:
        raise CaseRefused("damaged_file", patient, str(error).removeprefix(f"{path.parent}/")) from None

    def whole(key: str, rule: str) -> int:
        if key not in keys:
            message = f"Info.cfg has no {key}; add a line `{key}: <frame, from 1>` or re-download"
            raise CaseRefused(rule, patient, message)
        if not re.fullmatch(r"[1-9][0-9]{0,8}", keys[key]):
            message = f"Info.cfg has {key}={keys[key]:.80}, expected a whole number from 1; correct it"
            raise CaseRefused(rule, patient, message)
        return int(keys[key])

    ed, es = whole("ED", "no_key_frame") - 1, whole("ES", "no_key_frame") - 1
    if ed == es:
        message = f"Info.cfg has ED and ES at the same frame {ed + 1}; they must differ: correct it"
        raise CaseRefused("same_key_frames", patient, message)
    phases = whole("NbFrame", "phase_count") if "NbFrame" in keys else None
    return Info(ed, es, phases, keys.get("Group"), measure(keys.get("Height")), measure(keys.get("Weight")))


def _cine_4d(patient: str, volume: Volume, info: Info) -> tuple[np.ndarray, Volume]:
    phases = volume.stored.shape[3]
    if info.phases is not None and info.phases != phases:
        message = f"image has {phases} phases but Info.cfg has NbFrame={info.phases}; re-download or exclude the case"
        raise CaseRefused("phase_count", patient, message)
    for key, phase in (("ED", info.ed), ("ES", info.es)):
        if phase >= phases:
            message = f"Info.cfg has {key}={phase + 1}, but {volume.name} has {phases} phases; correct it"
            raise CaseRefused("key_frame_outside", patient, message)
    return volume.stored, volume


def _cine_of_two(patient: str, volumes: list[Volume]) -> tuple[np.ndarray, Volume]:
    """ED and ES as a cine of two phases; files of different scaling are converted to real values first."""
    ed, es = volumes
    es = es._replace(stored=on_grid_of(es, ed, patient))
    if ed.stored.shape != es.stored.shape:
        message = f"{ed.name} has shape {ed.stored.shape} but {es.name} {es.stored.shape}; re-download or exclude it"
        raise CaseRefused("frame_shapes", patient, message)
    if (ed.slope, ed.intercept) == (es.slope, es.intercept):
        return np.stack([ed.stored, es.stored], axis=-1), ed
    real = np.stack([v.stored * v.slope + v.intercept for v in (ed, es)], axis=-1)
    return without_fraction(real), ed._replace(slope=1.0, intercept=0.0, stored_type=None)
