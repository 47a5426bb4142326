"""The header of a compressed file: with the tokens, it is all that is needed to write a NIfTI file.

Axes: D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.case import LENGTH_UNITS, MM, STORED_TYPES, TIME_UNITS, CineCase
from data.preprocess import Geometry, Prepared
from utils.layout import LAYOUTS, TokenLayout

DTYPES = STORED_TYPES  # a type is stored as its place here
MAX_TOKENS = 1 << 21  # these limits keep a forged header from allocating gigabytes
MAX_SIDE = 1 << 13  # native pixels
MAX_VOXELS = 1 << 31


@dataclass(frozen=True, eq=False)
class Header:
    """Content of a compressed file without its tokens; real numbers are rounded to float32, as they are stored.

    Args:
        slices: D.
        phases: T.
        layout: layout of the tokens, see utils/layout.py.
        geometry: from the native grid to the model grid.
        window: (low, high) in real values, mapped to [0, 1].
        spacing_mm: native spacing along H, W, D.
        affine: (4, 4) voxel -> world; it is stored only if it is not diag(spacing).
        slope: real value = stored * slope + intercept.
        intercept: see slope; both are stored only if they are not (1, 0).
        dtype: data type of the stored values.
        tokens_id: 64-bit hash of all weights that determine the tokens; 0 if no model is named.
        pixels_id: 32-bit hash of all weights that decode them.
        outside: real value of voxels outside the model's field; None for 0, which is not stored.
        time_step: fourth zoom of the source.
        time_unit: NIfTI's code of its unit; both are stored only if they are not (0, 0).
        length_unit: NIfTI's code of the unit of length of the source; spacing and affine are in mm.

    Raises:
        ValueError: naming the field, the value found and what was expected.
    """

    slices: int
    phases: int
    layout: TokenLayout
    geometry: Geometry
    window: tuple[float, float]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    dtype: str = "int16"
    tokens_id: int = 0
    pixels_id: int = 0
    outside: float | None = None
    time_step: float = 0.0
    time_unit: int = 0
    length_unit: int = MM

    def __post_init__(self) -> None:
        for name in ("slope", "intercept", "time_step", *(("outside",) if self.outside is not None else ())):
            object.__setattr__(self, name, _rounded(getattr(self, name)).item())
        for name in ("window", "spacing_mm"):
            object.__setattr__(self, name, tuple(_rounded(getattr(self, name)).tolist()))
        object.__setattr__(self, "affine", _rounded(self.affine))
        layout = self.layout
        for name, count, low in (
            ("slices", self.slices, 1),
            ("phases", self.phases, 1),
            ("number of latent tokens", layout.num_tokens, layout.fewest_tokens),
            ("number of anatomy tokens", layout.num_anatomy, 0),
        ):
            _in_range(name, count, low, 0xFFFF)
        _in_range("codebook size", layout.codebook_size, 1, 1 << 31)
        _in_range("anatomy codebook size", layout.anatomy_codebook_size, 1 if layout.num_anatomy else 0, 1 << 31)
        if layout.name not in LAYOUTS:
            raise ValueError(f"the layout is {layout.name!r}, expected one of {', '.join(LAYOUTS)}")
        _in_range("number of tokens", math.prod(layout.shape(self.slices, self.phases)), 1, MAX_TOKENS)
        for name, size in zip(
            ("native height", "native width", "model grid"), (*self.geometry.native_hw, self.geometry.size), strict=True
        ):
            _in_range(name, size, 1, MAX_SIDE)
        voxels = math.prod(self.geometry.native_hw) * self.slices * self.phases
        _in_range("number of voxels", voxels, 1, MAX_VOXELS)
        for start in self.geometry.offset:
            _in_range("geometry offset", start, -0x8000, 0x7FFF)
        if not (np.isfinite(self.window).all() and self.window[0] < self.window[1]):
            raise ValueError(f"the window is {self.window}, expected finite values (low, high) with low < high")
        if not (np.isfinite(self.spacing_mm).all() and min(self.spacing_mm) > 0):
            raise ValueError(f"the spacing is {self.spacing_mm} mm, expected three positive lengths")
        if np.shape(self.affine) != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError(f"the affine has shape {np.shape(self.affine)}, expected a finite (4, 4) matrix")
        if not (np.isfinite([self.slope, self.intercept]).all() and self.slope != 0):
            raise ValueError(f"slope {self.slope}, intercept {self.intercept}: expected finite values, slope not 0")
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")
        _in_range("tokens_id", self.tokens_id, 0, (1 << 64) - 1)
        _in_range("pixels_id", self.pixels_id, 0, (1 << 32) - 1)
        if self.outside is not None and not math.isfinite(self.outside):
            raise ValueError(f"the value outside the field is {self.outside}, expected a finite number or None")
        if not (math.isfinite(self.time_step) and self.time_step >= 0 and self.time_unit in TIME_UNITS):
            raise ValueError(f"time step {self.time_step} of unit {self.time_unit}: expected 0 or more, a NIfTI code")
        if self.length_unit not in LENGTH_UNITS:
            raise ValueError(f"the unit of length is {self.length_unit}, expected one of {list(LENGTH_UNITS)}")


def header_for(case: CineCase, prepared: Prepared, layout: TokenLayout, **more: Any) -> Header:
    """Return the header of a case on the model grid.

    Args:
        case: the native cine.
        prepared: the case on the model grid.
        layout: layout of the model's tokens, `model.layout`.
        more: further fields of `Header`: tokens_id, pixels_id, outside.

    Returns:
        The header that `pack` takes.
    """
    slices, phases = case.cine.shape[2:]
    return Header(
        slices=slices,
        phases=phases,
        layout=layout,
        geometry=prepared.geometry,
        window=prepared.window,
        spacing_mm=case.spacing_mm,
        affine=np.asarray(case.affine, np.float64),
        slope=case.slope,
        intercept=case.intercept,
        dtype=case.stored_type or case.cine.dtype.name,
        time_step=case.time_step,
        time_unit=case.time_unit,
        length_unit=case.length_unit,
        **more,
    )


def _rounded(values: Any) -> np.ndarray:
    """Round numbers to float32, as float64."""
    with np.errstate(over="ignore"):  # infinity is refused
        return np.asarray(values, np.float32).astype(np.float64)


def _in_range(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, expected {low} to {high}")
