"""Position of a volume from its header, and comparison of the grids of two files.

Axes: H height, W width, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes: unknown (taken as mm), metre, mm, micron
EDGE_TOLERANCE = 0.01  # allowed difference of voxel edges, in length and direction, as a fraction of the length
CORNER_TOLERANCE = 0.1  # allowed distance between the corners of two grids, in voxels


class Grid(NamedTuple):
    """Position of a volume.

    Args:
        spacing_mm: along H, W, D, from the header's zooms alone; ACDC's sform has unit spacing.
        affine: (4, 4) voxel -> world in mm: the sform if it agrees with the zooms, else the qform, else the zooms.
        is_placed: whether the header contains a valid position; if not, the affine holds the zooms only.
    """

    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    is_placed: bool


def grid_of(header: Any) -> Grid:
    """The grid that a header of data/nifti/file.py describes.

    Raises:
        ValueError: for an invalid unit of length or spacing.
    """
    code = int(header["xyzt_units"]) & 7
    if code not in UNITS_MM:
        raise ValueError(f"the unit of length has the code {code}, expected 1 (metre), 2 (mm), 3 (micron) or 0 (mm)")
    height, width, depth = (float(zoom) * UNITS_MM[code] for zoom in header["pixdim"][1:4])
    spacing = (height, width, depth)
    if not all(np.isfinite(edge) and edge > 0 for edge in spacing):
        raise ValueError(f"spacing_mm is {spacing}, expected three lengths in mm")
    sform, qform = (_affine(form, UNITS_MM[code], spacing) for form in (header.get_sform, header.get_qform))
    if header["sform_code"] > 0 and sform is not None:
        return Grid(spacing, sform, True)
    if qform is not None:
        return Grid(spacing, qform, bool(header["qform_code"] > 0))
    return Grid(spacing, np.diag([*spacing, 1.0]), False)


def _affine(form: Callable[[], np.ndarray], unit_mm: float, spacing: tuple[float, float, float]) -> np.ndarray | None:
    """A header's affine in mm; None if it does not agree with the zooms."""
    try:
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are refused below
            affine = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ np.asarray(form(), np.float64)
    except (ValueError, np.linalg.LinAlgError):  # an invalid quaternion
        return None
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and np.allclose(edges, spacing, rtol=EDGE_TOLERANCE)):
        return None
    is_flat = abs(np.linalg.det(affine[:3, :3])) < EDGE_TOLERANCE * np.prod(spacing)
    return None if is_flat else affine


def turned(stored: np.ndarray, grid: Grid, other: Grid, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels on the grid of another file, unchanged or with exchanged and flipped axes, which is exact.

    Args:
        stored: (H, W, D) or (H, W, D, T) on `grid`.
        grid: where they lie.
        other: where they should lie.
        shape: (H, W, D) of the other file.
    Raises:
        ValueError: with the difference, if exchanging and flipping axes does not make the grids equal.
    """
    if not (grid.is_placed and other.is_placed):  # only the zooms can be compared
        if not np.allclose(grid.spacing_mm, other.spacing_mm, rtol=EDGE_TOLERANCE):
            raise ValueError(f"its spacing is {_text(grid.spacing_mm)} mm, expected {_text(other.spacing_mm)} mm")
        return stored
    relative = np.linalg.inv(other.affine) @ grid.affine  # voxel -> the other file's voxel
    turn = io_orientation(relative)
    left = relative @ inv_ornt_aff(turn, stored.shape[:3])  # the rest; the identity if the grids agree
    if np.isnan(turn).any() or np.abs(left[:3, :3] - np.eye(3)).max() > EDGE_TOLERANCE:
        raise ValueError(
            f"its voxel edges differ: spacing {_text(grid.spacing_mm)} mm, expected {_text(other.spacing_mm)} mm "
            "along the same directions"
        )
    corners = np.array([[*corner, 1] for corner in product(*((0, length - 1) for length in shape))])
    apart = float(np.abs((corners @ (left - np.eye(4)).T)[:, :3]).max())
    if apart > CORNER_TOLERANCE:
        raise ValueError(f"its corners are up to {apart:.3g} voxels apart, expected at most {CORNER_TOLERANCE:g}")
    return apply_orientation(stored, turn)


def _text(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{edge:.5g}" for edge in spacing)
