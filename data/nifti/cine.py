"""One cine from a NIfTI file, and a decoded cine back to a NIfTI file on the same grid.

Axes: H height, W width, D slices, T phases of the cardiac cycle, S side of the model grid.
"""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np

from data.case import MM, CineCase
from data.nifti.grids import UNITS_MM
from data.nifti.volume import read_nifti
from data.preprocess import Prepared, invert
from utils.files import atomic_path, blake2b

ENDINGS = (".nii.gz", ".nii")


def read_cine(path: str | Path) -> CineCase:
    """Read one 4-D NIfTI file, without masks and without known ED and ES.

    Args:
        path: a .nii or .nii.gz file of axes (H, W, D, T). The patient's name is the file's name without its ending;
            characters other than letters, digits, - and _ become _.
    Raises:
        CaseRefused: when the file is missing, damaged, not NIfTI, or not a cine.
    """
    path = Path(path)
    patient = re.sub(r"[^A-Za-z0-9_-]", "_", re.sub(r"\.nii(\.gz)?$", "", path.name))[:64]
    volume = read_nifti(path, 4, patient)
    return CineCase(
        patient, volume.stored, {}, volume.grid.spacing_mm, volume.grid.affine, ed=None, es=None, group=None,
        height_cm=None, weight_kg=None, slope=volume.slope, intercept=volume.intercept, source_hash=blake2b(path),
        **volume.header,
    )  # fmt: skip


def write_cine(path: str | Path, image: np.ndarray, case: CineCase, prepared: Prepared) -> None:
    """Write a decoded cine as NIfTI with the size, affine, spacing, data type and scale of its source.

    The header is new: no text of the source's header is copied. Voxels outside the model's field hold the lower end of
    the intensity window, which is 0 for most cines.

    Args:
        path: the file to write; it must end in .nii.gz or .nii.
        image: (1, S, S, D, T) float in [0, 1], one entry of the batch that `decode_tokens` returns.
        case: the source, (H, W, D, T).
        prepared: the source on the model grid, from `data.preprocess.prepare`.
    Raises:
        ValueError: for another shape or another file ending.
    """
    if not str(path).endswith(ENDINGS):
        raise ValueError(f"{path}: the file ending must be .nii.gz or .nii; choose another name")
    if image.shape != prepared.image.shape:
        raise ValueError(f"image has shape {image.shape}, expected {prepared.image.shape}; pass decode_tokens(...)[0]")
    native = invert(image[0].transpose(2, 3, 0, 1), prepared.geometry).transpose(2, 3, 0, 1)  # (H, W, D, T)
    low, high = prepared.window
    real = low + (high - low) * native.astype(np.float64)
    scaling, time = (case.slope, case.intercept), (case.time_step, case.time_unit)
    dtype = np.dtype(case.stored_type or case.cine.dtype)
    save_cine(path, real, case.affine, dtype, scaling, time, case.length_unit)


def save_cine(
    path: str | Path,
    real: np.ndarray,
    affine: np.ndarray,
    dtype: np.dtype,
    scaling: tuple[float, float] = (1.0, 0.0),
    time: tuple[float, int] = (0.0, 0),
    length_unit: int = MM,
) -> None:
    """Write real values as NIfTI with a new header, whole or not at all.

    Args:
        path: the file to write; it must end in .nii.gz or .nii.
        real: (H, W, D, T) real values.
        affine: (4, 4) voxel -> world in mm.
        dtype: of the stored values; integers are rounded and clipped to their range.
        scaling: slope and intercept; real value = stored * slope + intercept.
        time: fourth zoom and NIfTI's code of its unit; (0, 0) where they are unknown.
        length_unit: NIfTI's code of the unit of length of the file's header.
    Raises:
        ValueError: for another file ending.
    """
    if not str(path).endswith(ENDINGS):
        raise ValueError(f"{path}: the file ending must be .nii.gz or .nii; choose another name")
    stored = (real - scaling[1]) / scaling[0]
    if dtype.kind in "iu":
        stored = np.rint(stored).clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    own = np.diag([*[1 / UNITS_MM[length_unit]] * 3, 1.0]) @ affine  # in the file's unit
    nifti = nib.Nifti1Image(stored.astype(dtype), own, dtype=dtype)  # type: ignore[no-untyped-call]
    nifti.header.set_xyzt_units(length_unit or None, time[1] or None)
    nifti.header.set_slope_inter(*scaling)
    if time[0]:
        nifti.header.set_zooms((*nifti.header.get_zooms()[:3], time[0]))
    with atomic_path(path) as temporary:
        nib.save(nifti, temporary)
