"""Order of the coefficients of a wavelet pyramid: levels, bands and passes; shared by token layout, model and file.

A pyramid is a list of levels, from coarse to fine. Its first level is the low-pass band alone; each other level has
three bands: low-high, high-low and high-high (rows, then columns). A band of N samples splits into ceil(N / 2) low
and floor(N / 2) high samples, so a pyramid has exactly as many coefficients as the image has pixels.

Axes: D slices, T phases, R temporal components, H and W of an image, h and w of a band.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import numpy as np

MAX_LEVELS = 5
SMALLEST = 4  # the shorter side of the low-pass band has at least this many samples, where the image has
PASSES = ((0, 0), (1, 1), (0, 1), (1, 0))  # positions (row, column) modulo 2 that a pass codes

Shapes = list[list[tuple[int, int]]]
Band = TypeVar("Band")  # an array or a tensor


class BandId(NamedTuple):
    """Level, from coarse to fine, and orientation of a band."""

    level: int
    orientation: int


def levels_for(height: int, width: int) -> int:
    """Return the number of levels of an image of this size, 0 to MAX_LEVELS."""
    shorter = min(height, width)
    return 0 if shorter < 2 * SMALLEST else min(MAX_LEVELS, int(math.log2(shorter / SMALLEST)))


def band_shapes(height: int, width: int) -> Shapes:
    """Return the shape of each band of each level."""
    levels = []
    for _ in range(levels_for(height, width)):
        low_h, low_w = -(-height // 2), -(-width // 2)
        levels.append([(low_h, width // 2), (height // 2, low_w), (height // 2, width // 2)])
        height, width = low_h, low_w
    return [[(height, width)], *levels[::-1]]


def band_ids(levels: int) -> list[BandId]:
    """Return the bands of a pyramid in coding order."""
    return [BandId(0, 0), *(BandId(level, o) for level in range(1, levels + 1) for o in range(3))]


def parent(band: BandId) -> BandId | None:
    """Return the next coarser band of the same orientation; None for the low-pass band."""
    return None if band.level == 0 else BandId(band.level - 1, band.orientation if band.level > 1 else 0)


def to_flat(bands: list[np.ndarray]) -> np.ndarray:
    """Join bands (..., h, w), in coding order, to (..., H * W)."""
    return np.concatenate([band.reshape(*band.shape[:-2], -1) for band in bands], -1)


def from_flat(flat: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Split (..., H * W) to bands (..., h, w) in coding order, the inverse of `to_flat`."""
    shapes = [shape for level in band_shapes(height, width) for shape in level]
    ends = np.cumsum([h * w for h, w in shapes])[:-1]
    parts = np.split(flat, ends, axis=-1)
    return [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]


def to_levels(bands: list[Band]) -> list[list[Band]]:
    """Group bands in coding order by level."""
    return [bands[:1], *(bands[i : i + 3] for i in range(1, len(bands), 3))]
