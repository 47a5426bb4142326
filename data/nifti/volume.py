"""Read NIfTI files as stored: raw integers, spacing and labels, with errors that name the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.case import MM, STORED_TYPES, CaseRefused
from data.nifti.file import DAMAGE, NotNifti, read_file
from data.nifti.grids import Grid, grid_of, turned
from utils.labels import LABELS

AXES = {3: "(H, W, D)", 4: "(H, W, D, T)"}
LABEL_TOLERANCE = 1e-3  # labels with a slope differ from whole numbers by rounding


class Volume(NamedTuple):
    """One NIfTI file; nothing else of its header is kept, because free text in a header can hold a person's name.

    Args:
        name: file name, without its folder.
        stored: (H, W, D) or (H, W, D, T) stored values in native byte order; integers if no value is fractional.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
        grid: spacing and position.
        time: fourth zoom and NIfTI's code of its unit; (0, 0) where they are unknown or invalid.
        stored_type: data type of the file, if it is another one than that of `stored` and one of STORED_TYPES.
        length_unit: NIfTI's code of the unit of length.
    """

    name: str
    stored: np.ndarray
    slope: float
    intercept: float
    grid: Grid
    time: tuple[float, int] = (0.0, 0)
    stored_type: str | None = None
    length_unit: int = MM

    @property
    def header(self) -> dict[str, Any]:
        """Fields of `CineCase` from which a decoded file gets the time step, units and data type of this one."""
        time_step, time_unit = self.time
        return {"time_step": time_step, "time_unit": time_unit, "stored_type": self.stored_type,
                "length_unit": self.length_unit}  # fmt: skip


def find_nifti(folder: Path, stem: str) -> Path | None:
    """The file `stem`.nii.gz or `stem`.nii of a folder, also a broken link; None if neither exists."""
    paths = (folder / f"{stem}{end}" for end in (".nii.gz", ".nii"))
    return next((path for path in paths if path.is_file() or path.is_symlink()), None)


def read_nifti(path: Path, axes: int, patient: str) -> Volume:
    """Read a NIfTI file, with or without gzip, independent of its name.

    Args:
        path: the file.
        axes: 3 for (H, W, D), 4 for (H, W, D, T); further axes of length 1 are dropped.
        patient: name of the patient, for error messages.
    Raises:
        CaseRefused: when the file is missing, truncated, damaged or not NIfTI, or has other axes, NaN, colours, or an
            invalid spacing.
        OSError: when it cannot be opened or read.
    """
    if not path.is_file():
        link = "is a broken link; get the file that it points to, or re-download the case"
        reason = link if path.is_symlink() else "is missing; check its name, or re-download the case"
        raise CaseRefused("missing_file", patient, f"{path.name} {reason}")
    try:
        header, stored = read_file(path)
        slope, intercept = header.get_slope_inter()
    except NotNifti as error:
        raise CaseRefused("not_nifti", patient, f"{path.name} is {error}") from error
    except DAMAGE as error:
        message = f"{path.name} is truncated or damaged ({error}); re-download it"
        raise CaseRefused("damaged_file", patient, message) from error
    try:
        grid = grid_of(header)
    except ValueError as error:
        raise CaseRefused("bad_spacing", patient, f"{path.name}: {error}; fix the header") from error
    while stored.ndim > axes and stored.shape[-1] == 1:
        stored = stored[..., 0]
    _check_voxels(stored, axes, path.name, patient)
    name = stored.dtype.name
    stored = without_fraction(stored.astype(stored.dtype.newbyteorder("="), copy=False))
    stored_type = name if name in STORED_TYPES and name != stored.dtype.name else None
    scale = (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept))
    return Volume(path.name, stored, *scale, grid, _time_of(header), stored_type, int(header["xyzt_units"]) & 0x07)


def _time_of(header: Any) -> tuple[float, int]:
    """Fourth zoom and the code of its unit."""
    zooms, unit = header.get_zooms(), int(header["xyzt_units"]) & 0x38
    step = float(zooms[3]) if len(zooms) > 3 else 0.0
    return (step, unit if unit in (8, 16, 24) else 0) if np.isfinite(step) and step > 0 else (0.0, 0)


def without_fraction(values: np.ndarray) -> np.ndarray:
    """Floats as int16 or int32 if this is lossless, else as float32; integers unchanged, but uint64 as int64."""
    if values.dtype == np.uint64 and values.max(initial=0) <= np.iinfo(np.int64).max:
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        return values
    planes = np.moveaxis(values, -1, 0)  # one at a time, to save memory
    if all((plane == np.rint(plane)).all() for plane in planes):
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return values.astype(dtype)
    return values.astype(np.float32, copy=False)


def on_grid_of(volume: Volume, image: Volume, patient: str) -> np.ndarray:
    """The stored values of a file on the grid of another file, with axes reordered if needed.

    Raises:
        CaseRefused: if the grids differ according to the headers.
    """
    try:
        return turned(volume.stored, volume.grid, image.grid, image.stored.shape[:3])
    except ValueError as error:
        message = f"{volume.name} has another grid than {image.name}: {error}; resample it, or correct its header"
        raise CaseRefused("other_grid", patient, message) from error


def read_mask(path: Path, patient: str, image: Volume, order: Sequence[int] = tuple(LABELS)) -> np.ndarray:
    """Read the labels of one phase.

    Args:
        path: a file of axes (H, W, D).
        patient: name of the patient, for error messages.
        image: the image, or the cine, whose grid the labels must share.
        order: this project's label for each of the file's labels 0, 1, 2, 3.
    Returns:
        (H, W, D) uint8: 0 background, 1 RV, 2 MYO, 3 LV.
    Raises:
        CaseRefused: as `read_nifti`, and for another grid, another shape or other labels.
    """
    volume = read_nifti(path, 3, patient)
    return _labels(volume, _aligned(volume, image, image.stored.shape[:3], patient), order, patient)


def read_masks(path: Path, patient: str, cine: Volume, order: Sequence[int] = tuple(LABELS)) -> dict[int, np.ndarray]:
    """Read the labels of a whole cine.

    Args:
        path: a file of axes (H, W, D, T).
        patient, order: as in `read_mask`.
        cine: the cine, whose grid the labels must share.
    Returns:
        zero-based phase -> (H, W, D) uint8, for phases with any label.
    Raises:
        CaseRefused: as `read_mask`.
    """
    volume = read_nifti(path, 4, patient)
    stored = _aligned(volume, cine, cine.stored.shape, patient)
    masks = {t: _labels(volume, stored[..., t], order, patient) for t in range(stored.shape[3])}
    return {phase: mask for phase, mask in masks.items() if mask.any()}


def _check_voxels(stored: np.ndarray, axes: int, name: str, patient: str) -> None:
    if stored.dtype.kind not in "iuf":
        message = f"{name} has voxels of type {stored.dtype}, expected grey values; re-download or exclude it"
        raise CaseRefused("wrong_type", patient, message)
    if stored.ndim != axes or 0 in stored.shape:
        wanted = AXES[axes] if stored.ndim != axes else f"{AXES[axes]} with none of them 0"
        message = f"{name} has shape {stored.shape}, expected {wanted}; give another file"
        raise CaseRefused("wrong_axes", patient, message)
    if stored.dtype.kind == "f" and (count := stored.size - int(np.isfinite(stored).sum())):
        message = f"{name} holds {count} NaN or infinite voxels; re-download or exclude it"
        raise CaseRefused("not_finite", patient, message)


def _aligned(volume: Volume, image: Volume, shape: tuple[int, ...], patient: str) -> np.ndarray:
    """A mask's values on its image's grid."""
    stored = on_grid_of(volume, image, patient)
    if stored.shape != shape:
        message = f"{volume.name} has shape {stored.shape}, but its image has {shape}; re-download or exclude it"
        raise CaseRefused("mask_shape", patient, message)
    return stored


def _labels(volume: Volume, stored: np.ndarray, order: Sequence[int], patient: str) -> np.ndarray:
    real = stored * volume.slope + volume.intercept
    labels = np.rint(real)
    wrong = (np.abs(real - labels) > LABEL_TOLERANCE) | (labels < 0) | (labels >= len(order))
    if wrong.any():
        values = [round(float(value), 4) for value in np.unique(real[wrong])[:5]]
        names = ", ".join(f"{value} ({LABELS[label]})" for value, label in enumerate(order) if value)
        raise CaseRefused(
            "mask_labels", patient, f"{volume.name} holds labels {values}, expected 0, {names}; correct it"
        )
    return np.asarray(order, np.uint8)[labels.astype(np.intp)]
