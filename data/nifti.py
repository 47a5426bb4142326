"""Reading NIfTI volumes as they are stored: raw integers, true spacing, and errors that name the file."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

UNREADABLE = (
    OSError, EOFError, ValueError, zlib.error, MemoryError, OverflowError,
    nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError,
)  # fmt: skip


class Volume(NamedTuple):
    """One NIfTI file.

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


def read_nifti(path: str | Path, axes: int) -> Volume:
    """Read a .nii or .nii.gz file.

    Args:
        path: the file.
        axes: 3 for (H, W, D), 4 for (H, W, D, T); further axes of length 1 are dropped.
    Raises:
        FileNotFoundError: when it does not exist.
        ValueError: when it is truncated or damaged, has other axes, or holds NaN.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        image = nib.load(path)
        if not isinstance(image, nib.Nifti1Image):
            raise ValueError(f"it is a {type(image).__name__}, not NIfTI")
        proxy: Any = image.dataobj
        stored = np.asarray(proxy.get_unscaled())
    except UNREADABLE as error:
        raise ValueError(f"{path.name} is truncated or damaged ({error}); re-download it") from error
    while stored.ndim > axes and stored.shape[-1] == 1:
        stored = stored[..., 0]
    if stored.dtype.kind not in "iuf" or stored.ndim != axes:
        expected = "(H, W, D, T)" if axes == 4 else "(H, W, D)"
        found = f"{stored.dtype} of shape {stored.shape}"
        raise ValueError(f"{path.name} holds {found}, expected grey values {expected}; re-download or exclude it")
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        count = stored.size - int(np.isfinite(stored).sum())
        raise ValueError(f"{path.name} holds {count} NaN or infinite voxels; re-download or exclude it")
    zooms = [float(zoom) for zoom in image.header.get_zooms()[:3]]  # never the sform: ACDC's has unit spacing
    stored = without_fraction(stored.astype(stored.dtype.newbyteorder("="), copy=False))
    return Volume(
        path.name, stored, float(proxy.slope), float(proxy.inter), (zooms[0], zooms[1], zooms[2]), _affine(image, zooms)
    )


def without_fraction(values: np.ndarray) -> np.ndarray:
    """Floats as int16 or int32 where that loses nothing, else as float32; integers as they are."""
    if values.dtype.kind != "f":
        return values
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    for dtype in (np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max and (values == np.rint(values)).all():
            return values.astype(dtype)
    return values.astype(np.float32)


def _affine(image: nib.Nifti1Image, zooms: list[float]) -> np.ndarray:
    """The sform where it agrees with the zooms, else the qform, which is made of them, else the zooms alone."""
    affine = np.asarray(image.affine, np.float64)
    if np.allclose(np.linalg.norm(affine[:3, :3], axis=0), zooms, rtol=1e-2):
        return affine
    try:
        return np.asarray(image.header.get_qform(), np.float64)
    except UNREADABLE:
        return np.diag([*zooms, 1.0])
