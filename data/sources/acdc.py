"""ACDC as it is distributed: one folder a patient with Info.cfg, the 4-D cine, the ED and ES frames and their masks.

    patient001/Info.cfg                      ED, ES (one-based), NbFrame, Group, Height, Weight
    patient001/patient001_4d.nii.gz          (H, W, D, T)
    patient001/patient001_frame01.nii.gz     (H, W, D), and patient001_frame01_gt.nii.gz with its labels

Patients stand in `training/` and `testing/`, the same below `database/`, or directly below the input folder.
Source: Bernard et al., Deep learning techniques for automatic MRI cardiac multi-structures segmentation and
diagnosis, IEEE TMI 37(11), 2018.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.case import LABELS, CineCase
from data.nifti import Volume, read_nifti, without_fraction

MODALITIES = ("4d_mri", "ed_es")
FOLDERS = ("", "training", "testing", "database", "database/training", "database/testing")
PATIENT_FOLDER = re.compile(r"patient[0-9]+")


@dataclass
class Options:
    """Which cases to read.

    Args:
        input_dir: the dataset's folder.
        modality: `4d_mri` for whole cines; `ed_es` for the two labelled frames as a cine of two phases (0 ED, 1 ES).
        exclude: patients to leave out.
    """

    input_dir: str
    modality: str = "4d_mri"
    exclude: list[str] = field(default_factory=list)


def build(options: Options) -> AcdcSource:
    """The source that the options describe."""
    return AcdcSource(Path(options.input_dir), options.modality, tuple(options.exclude))


class AcdcSource:
    """Lists and loads the patients of an ACDC folder."""

    name = "acdc"

    def __init__(self, input_dir: Path, modality: str = "4d_mri", exclude: tuple[str, ...] = ()) -> None:
        if modality not in MODALITIES:
            raise ValueError(f"modality is {modality!r}, expected one of {', '.join(MODALITIES)}")
        if not input_dir.is_dir():
            raise FileNotFoundError(f"{input_dir}: no such folder; give the folder that holds the ACDC patients")
        self.modality = modality
        found = _find_patients(input_dir)
        if unknown := sorted(set(exclude) - set(found)):
            raise ValueError(f"excluded patients not found below {input_dir}: {', '.join(unknown)}; check them")
        self.folders = {name: found[name] for name in sorted(found) if name not in exclude}
        if not self.folders:
            raise ValueError(
                f"{input_dir}: no patients found; expected folders with an Info.cfg, such as patient001, "
                "directly below it or in training/, testing/ or database/"
            )

    def patients(self) -> list[str]:
        """Names of the patients, sorted; reads no image."""
        return list(self.folders)

    def group(self, patient: str) -> str | None:
        """Diagnosis from Info.cfg, None where it is not told."""
        path = self.folders[patient] / "Info.cfg"
        return _read_keys(path).get("Group") if path.is_file() else None

    def held_out(self, patient: str) -> bool:
        """Whether the patient belongs to the dataset's own test set, the folder `testing`."""
        return self.folders[patient].parent.name == "testing"

    def source_hash(self, patient: str) -> str:
        """blake2b over the bytes of the files that `load` reads."""
        info = _read_info(patient, self.folders[patient] / "Info.cfg")
        digest = hashlib.blake2b(digest_size=16)
        for path in (self.folders[patient] / "Info.cfg", *self._images(patient, info), *self._masks(patient, info)):
            if path is not None:
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
                with path.open("rb") as stream:
                    while chunk := stream.read(1 << 20):
                        digest.update(chunk)
        return digest.hexdigest()

    def load(self, patient: str) -> CineCase:
        """Read one patient.

        Raises:
            FileNotFoundError: when Info.cfg or the images of this modality are missing.
            ValueError: naming the patient and what is wrong, with the file at fault.
        """
        info = _read_info(patient, self.folders[patient] / "Info.cfg")
        whole = self.modality == "4d_mri"
        volumes = [_read_volume(patient, path, axes=4 if whole else 3) for path in self._images(patient, info)]
        cine, first = _cine_4d(patient, volumes[0], info) if whole else _cine_of_two(patient, volumes)
        ed, es = (info.ed, info.es) if whole else (0, 1)
        paths = zip((ed, es), self._masks(patient, info), strict=True)
        masks = {phase: _read_mask(patient, path, cine.shape[:3]) for phase, path in paths if path is not None}
        case = CineCase(
            patient, cine, masks, first.spacing_mm, first.affine, ed, es, info.group, info.height_cm, info.weight_kg,
            first.slope, first.intercept, self.source_hash(patient),
        )  # fmt: skip
        _refuse_empty_frames(case)
        return case

    def _images(self, patient: str, info: Info) -> list[Path]:
        """The image files of this modality; a missing one is an error that tells what else is there."""
        whole = self._file(patient, "_4d")
        frames = [self._file(patient, f"_frame{phase + 1:02d}") for phase in (info.ed, info.es)]
        if self.modality == "4d_mri":
            if whole is None:
                hint = "; its ED and ES frames are there: convert them with --modality ed_es" if all(frames) else ""
                raise FileNotFoundError(f"{patient}: {patient}_4d.nii.gz is missing{hint or '; re-download the case'}")
            return [whole]
        for phase, path in zip((info.ed, info.es), frames, strict=True):
            if path is None:
                hint = "; its whole cine is there: convert it with --modality 4d_mri" if whole else ""
                name = f"{patient}_frame{phase + 1:02d}.nii.gz"
                raise FileNotFoundError(f"{patient}: {name} is missing{hint or '; re-download the case'}")
        return [path for path in frames if path is not None]

    def _masks(self, patient: str, info: Info) -> list[Path | None]:
        """The label files of ED and ES, None where there is none."""
        return [self._file(patient, f"_frame{phase + 1:02d}_gt") for phase in (info.ed, info.es)]

    def _file(self, patient: str, suffix: str) -> Path | None:
        candidates = (self.folders[patient] / f"{patient}{suffix}{end}" for end in (".nii.gz", ".nii"))
        return next((path for path in candidates if path.is_file()), None)


def _find_patients(input_dir: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for parent in (input_dir / name for name in FOLDERS):
        for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
            if not (folder.is_dir() and (PATIENT_FOLDER.fullmatch(folder.name) or (folder / "Info.cfg").is_file())):
                continue
            if not re.fullmatch(r"[A-Za-z0-9_-]+", folder.name):
                raise ValueError(f"{folder}: patient folders may hold letters, digits, - and _ only; rename it")
            if folder.name in found:
                raise ValueError(f"{folder.name} is there twice, {found[folder.name]} and {folder}; remove one of them")
            found[folder.name] = folder
    return found


@dataclass(frozen=True)
class Info:
    """What Info.cfg says; phases are zero-based here, one-based in the file."""

    ed: int
    es: int
    phases: int | None
    group: str | None
    height_cm: float | None
    weight_kg: float | None


def _read_keys(path: Path) -> dict[str, str]:
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {key.strip(): value.strip() for key, _, value in lines if value.strip()}


def _read_info(patient: str, path: Path) -> Info:
    if not path.is_file():
        raise FileNotFoundError(f"{patient}: Info.cfg is missing; re-download the case")
    keys = _read_keys(path)

    def whole(key: str) -> int:
        if key not in keys:
            raise ValueError(f"{patient}: Info.cfg has no {key}; add a line `{key}: <frame, from 1>` or re-download")
        if not re.fullmatch(r"[1-9][0-9]*", keys[key]):
            raise ValueError(f"{patient}: Info.cfg says {key}={keys[key]}, expected a whole number from 1; correct it")
        return int(keys[key])

    def measure(key: str) -> float | None:
        try:
            value = float(keys[key])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) and value > 0 else None

    ed, es = whole("ED") - 1, whole("ES") - 1
    if ed == es:
        raise ValueError(f"{patient}: Info.cfg says ED and ES are both frame {ed + 1}; they must differ: correct it")
    phases = whole("NbFrame") if "NbFrame" in keys else None
    return Info(ed, es, phases, keys.get("Group"), measure("Height"), measure("Weight"))


def _read_volume(patient: str, path: Path, axes: int) -> Volume:
    try:
        return read_nifti(path, axes)
    except ValueError as error:
        raise ValueError(f"{patient}: {error}") from error


def _cine_4d(patient: str, volume: Volume, info: Info) -> tuple[np.ndarray, Volume]:
    phases = volume.stored.shape[3]
    if info.phases is not None and info.phases != phases:
        raise ValueError(
            f"{patient}: image has {phases} phases but Info.cfg says NbFrame={info.phases}; "
            "re-download the case or exclude it"
        )
    for key, phase in (("ED", info.ed), ("ES", info.es)):
        if phase >= phases:
            raise ValueError(f"{patient}: Info.cfg says {key}={phase + 1}, but {volume.name} has {phases} phases")
    return volume.stored, volume


def _cine_of_two(patient: str, volumes: list[Volume]) -> tuple[np.ndarray, Volume]:
    """ED and ES as a cine of two phases; files of different scaling are brought to real values first."""
    ed, es = volumes
    if ed.stored.shape != es.stored.shape:
        raise ValueError(
            f"{patient}: {ed.name} has shape {ed.stored.shape} but {es.name} {es.stored.shape}; "
            "re-download or exclude the case"
        )
    if (ed.slope, ed.intercept) == (es.slope, es.intercept):
        return np.stack([ed.stored, es.stored], axis=-1), ed
    real = np.stack([v.stored * v.slope + v.intercept for v in volumes], axis=-1)
    return without_fraction(real), ed._replace(slope=1.0, intercept=0.0)


def _read_mask(patient: str, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    volume = _read_volume(patient, path, axes=3)
    labels = volume.stored * volume.slope + volume.intercept
    if labels.shape != shape:
        raise ValueError(
            f"{patient}: {path.name} has shape {labels.shape}, but its image has {shape}; re-download or exclude it"
        )
    if wrong := sorted(set(np.unique(labels).tolist()) - set(LABELS)):
        raise ValueError(f"{patient}: {path.name} holds labels {wrong[:5]}, expected 0, 1 (RV), 2 (MYO), 3 (LV)")
    return labels.astype(np.uint8)


def _refuse_empty_frames(case: CineCase) -> None:
    empty = np.argwhere(case.cine.min(axis=(0, 1)) == case.cine.max(axis=(0, 1)))
    if len(empty):
        z, t = (int(i) for i in empty[0])
        raise ValueError(
            f"{case.patient}: {len(empty)} frames are empty, the first at slice {z}, phase {t} (zero-based); "
            "re-download the case or exclude it"
        )
