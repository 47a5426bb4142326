"""Where a volume lies by its header, and whether two files share a grid.

Axes: H height, W width, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

UNITS_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's codes: unknown (taken as mm), metre, mm, micron
EDGE_TOLERANCE = 0.01  # by which edges of voxels may differ in length and direction, as a part of their length
CORNER_TOLERANCE = 0.1  # voxels by which the corners of two grids may lie apart


class Grid(NamedTuple):
    """Where a volume lies.

    Args:
        spacing_mm: along H, W, D, from the header's zooms alone; ACDC's sform has unit spacing.
        affine: (4, 4) voxel -> world in mm: the sform where it agrees with the zooms, else the qform, else the zooms.
        is_placed: whether the header says where the volume lies; otherwise the affine is a guess.
    """

    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    is_placed: bool


def grid_of(header: Any) -> Grid:
    """The grid that a header of data/nifti/file.py describes.

    Raises:
        ValueError: naming the unit of length, or the spacing, that makes no sense.
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
    """A header's affine in mm; None where it makes no sense beside the zooms."""
    try:
        affine = np.diag([unit_mm, unit_mm, unit_mm, 1.0]) @ np.asarray(form(), np.float64)
    except (ValueError, np.linalg.LinAlgError):  # a quaternion that is none
        return None
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not (np.isfinite(affine).all() and np.allclose(edges, spacing, rtol=EDGE_TOLERANCE)):
        return None
    is_flat = abs(np.linalg.det(affine[:3, :3])) < EDGE_TOLERANCE * np.prod(spacing)
    return None if is_flat else affine


def turned(stored: np.ndarray, grid: Grid, other: Grid, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels on another file's grid, as they lie or with axes exchanged and flipped, which moves no voxel's centre.

    Args:
        stored: (H, W, D) or (H, W, D, T) on `grid`.
        grid: where they lie.
        other: where they should lie.
        shape: (H, W, D) of the other file.
    Raises:
        ValueError: saying how the grids differ, where no exchange and flip makes them one.
    """
    if not (grid.is_placed and other.is_placed):  # nothing but zooms to compare
        if not np.allclose(grid.spacing_mm, other.spacing_mm, rtol=EDGE_TOLERANCE):
            raise ValueError(f"its spacing is {_text(grid.spacing_mm)} mm, expected {_text(other.spacing_mm)} mm")
        return stored
    relative = np.linalg.inv(other.affine) @ grid.affine  # voxel -> the other file's voxel
    turn = io_orientation(relative)
    left = relative @ inv_ornt_aff(turn, stored.shape[:3])  # what the turn leaves over, the identity where they agree
    if np.isnan(turn).any() or np.abs(left[:3, :3] - np.eye(3)).max() > EDGE_TOLERANCE:
        raise ValueError(
            f"its voxels have other edges: spacing {_text(grid.spacing_mm)} mm, expected {_text(other.spacing_mm)} mm "
            "along the same directions"
        )
    corners = np.array([[*corner, 1] for corner in product(*((0, length - 1) for length in shape))])
    apart = float(np.abs((corners @ (left - np.eye(4)).T)[:, :3]).max())
    if apart > CORNER_TOLERANCE:
        raise ValueError(f"its corners lie up to {apart:.3g} voxels apart, expected {CORNER_TOLERANCE:g} at most")
    return apply_orientation(stored, turn)


def _text(spacing: tuple[float, float, float]) -> str:
    return " x ".join(f"{edge:.5g}" for edge in spacing)
