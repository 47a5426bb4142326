"""Reading NIfTI files as they are stored: raw integers, true spacing, labels, and refusals that name the file."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from data.case import LABELS, CaseRefused

UNREADABLE = (
    OSError, EOFError, ValueError, zlib.error, MemoryError, OverflowError,
    nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError,
)  # fmt: skip
AXES = {3: "(H, W, D)", 4: "(H, W, D, T)"}
CHUNK = 1 << 18  # bytes
LABEL_TOLERANCE = 1e-3  # labels behind a slope miss the whole number by a rounding


class Volume(NamedTuple):
    """One NIfTI file; nothing else of its header is kept, because free text in a header can hold a person's name.

    Args:
        name: file name, without its folder.
        stored: (H, W, D) or (H, W, D, T) stored values in native byte order; integers wherever none is fractional.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
        spacing_mm: along H, W, D.
        affine: (4, 4) voxel -> world; its columns are as long as the voxels.
    """

    name: str
    stored: np.ndarray
    slope: float
    intercept: float
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray


def find_nifti(folder: Path, stem: str) -> Path | None:
    """The file `stem`.nii.gz or `stem`.nii of a folder, None where there is neither."""
    return next((path for end in (".nii.gz", ".nii") if (path := folder / f"{stem}{end}").is_file()), None)


def read_nifti(path: Path, axes: int, patient: str) -> Volume:
    """Read a .nii or .nii.gz file.

    Args:
        path: the file.
        axes: 3 for (H, W, D), 4 for (H, W, D, T); further axes of length 1 are dropped.
        patient: whose file it is, for the refusals.
    Raises:
        CaseRefused: when it is missing, truncated or damaged, has other axes, or holds NaN or colours.
    """
    if not path.is_file():
        raise CaseRefused("missing_file", patient, f"{path.name} is missing; re-download the case")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise ValueError(f"it is a {type(image).__name__}, not NIfTI")
        proxy: Any = image.dataobj
        stored = _stored(path, proxy)
        zooms = _zooms(path, image)
    except UNREADABLE as error:
        reason = str(error).replace(str(path), path.name)  # a message goes into logs, where no folder belongs
        message = f"{path.name} is truncated or damaged ({reason}); re-download it"
        raise CaseRefused("damaged_file", patient, message) from error
    while stored.ndim > axes and stored.shape[-1] == 1:
        stored = stored[..., 0]
    _check_voxels(stored, axes, path.name, patient)
    stored = without_fraction(stored.astype(stored.dtype.newbyteorder("="), copy=False))
    return Volume(path.name, stored, float(proxy.slope), float(proxy.inter), zooms, _affine(image, zooms))


def without_fraction(values: np.ndarray) -> np.ndarray:
    """Floats as int16 or int32 where that loses nothing, else as float32; integers as they are."""
    if values.dtype.kind != "f":
        return values
    planes = np.moveaxis(values, -1, 0)  # one after another: a rounded copy of a whole cine would be large
    if all((plane == np.rint(plane)).all() for plane in planes):
        low, high = float(values.min(initial=0)), float(values.max(initial=0))
        for dtype in (np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return values.astype(dtype)
    return values.astype(np.float32, copy=False)


def read_mask(path: Path, patient: str, shape: tuple[int, ...], order: Sequence[int] = tuple(LABELS)) -> np.ndarray:
    """Read the labels of one phase.

    Args:
        path: a file of axes (H, W, D).
        patient: whose file it is, for the refusals.
        shape: (H, W, D) of the image.
        order: our label of each of the file's labels 0, 1, 2, 3.
    Returns:
        (H, W, D) uint8: 0 background, 1 RV, 2 MYO, 3 LV.
    Raises:
        CaseRefused: as `read_nifti`, and for another shape or other labels.
    """
    volume = read_nifti(path, len(shape), patient)
    _check_mask_shape(volume, shape, patient)
    return _labels(volume, volume.stored, order, patient)


def read_masks(
    path: Path, patient: str, shape: tuple[int, ...], order: Sequence[int] = tuple(LABELS)
) -> dict[int, np.ndarray]:
    """Read the labels of a whole cine.

    Args:
        path: a file of axes (H, W, D, T).
        patient, order: as in `read_mask`.
        shape: (H, W, D, T) of the cine.
    Returns:
        zero-based phase -> (H, W, D) uint8, of the phases that hold any label.
    Raises:
        CaseRefused: as `read_mask`.
    """
    volume = read_nifti(path, len(shape), patient)
    _check_mask_shape(volume, shape, patient)
    masks = {t: _labels(volume, volume.stored[..., t], order, patient) for t in range(shape[3])}
    return {phase: mask for phase, mask in masks.items() if mask.any()}


def _check_voxels(stored: np.ndarray, axes: int, name: str, patient: str) -> None:
    if stored.dtype.kind not in "iuf":
        message = f"{name} holds voxels of type {stored.dtype}, expected grey values; re-download or exclude it"
        raise CaseRefused("wrong_type", patient, message)
    if stored.ndim != axes or 0 in stored.shape:
        message = f"{name} has shape {stored.shape}, expected {AXES[axes]} with none of them 0; exclude it"
        raise CaseRefused("wrong_axes", patient, message)
    if stored.dtype.kind == "f" and (count := stored.size - int(np.isfinite(stored).sum())):
        message = f"{name} holds {count} NaN or infinite voxels; re-download or exclude it"
        raise CaseRefused("not_finite", patient, message)


def _check_mask_shape(volume: Volume, shape: tuple[int, ...], patient: str) -> None:
    if volume.stored.shape != shape:
        message = f"{volume.name} has shape {volume.stored.shape}, but its image has {shape}; re-download or exclude it"
        raise CaseRefused("mask_shape", patient, message)


def _labels(volume: Volume, stored: np.ndarray, order: Sequence[int], patient: str) -> np.ndarray:
    real = stored * volume.slope + volume.intercept
    labels = np.rint(real)
    wrong = (np.abs(real - labels) > LABEL_TOLERANCE) | (labels < 0) | (labels >= len(order))
    if wrong.any():
        found = [round(float(value), 4) for value in np.unique(real[wrong])[:5]]
        names = ", ".join(f"{theirs} ({LABELS[ours]})" for theirs, ours in enumerate(order) if theirs)
        raise CaseRefused(
            "mask_labels", patient, f"{volume.name} holds labels {found}, expected 0, {names}; correct it"
        )
    return np.asarray(order, np.uint8)[labels.astype(np.intp)]


def _stored(path: Path, proxy: Any) -> np.ndarray:
    """The voxels as they lie in the file, in one copy; read to its end, so that gzip compares its checksum too."""
    size = math.prod(proxy.shape) * proxy.dtype.itemsize
    buffer = np.empty(size, np.uint8)
    filled = 0
    with nib.openers.ImageOpener(str(path)) as stream:
        stream.seek(proxy.offset)
        while piece := stream.read(CHUNK):
            used = piece[: size - filled]
            buffer[filled : filled + len(used)] = np.frombuffer(used, np.uint8)
            filled += len(used)
    if filled < size:
        raise ValueError(f"it ends after {filled} of {size} bytes of voxels")
    return buffer.view(proxy.dtype).reshape(proxy.shape, order="F")


def _zooms(path: Path, image: nib.Nifti1Image) -> tuple[float, float, float]:
    """Spacing as the file says it; never the sform, ACDC's has unit spacing. nibabel itself would turn 0 into 1 mm."""
    with nib.openers.ImageOpener(str(path)) as stream:
        said = np.asarray(type(image.header).from_fileobj(stream, check=False)["pixdim"][1:4], float)
    height, width, depth = (float(zoom) for zoom in np.abs(said))
    return height, width, depth


def _affine(image: nib.Nifti1Image, zooms: Sequence[float]) -> np.ndarray:
    """The sform where it agrees with the zooms, else the qform, which is made of them, else the zooms alone."""
    affine = np.asarray(image.affine, np.float64)
    if np.allclose(np.linalg.norm(affine[:3, :3], axis=0), zooms, rtol=1e-2):
        return affine
    try:
        return np.asarray(image.header.get_qform(), np.float64)
    except UNREADABLE:
        return np.diag([*zooms, 1.0])
