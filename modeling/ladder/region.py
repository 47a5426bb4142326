"""Finer steps in a disk around the heart: its coefficients are multiplied before quantization, and divided after it.

Axes: H and W of the field, h and w of a band.

Source: Christopoulos et al., Efficient methods for encoding regions of interest in JPEG 2000, 2000 (scaling of
coefficients).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from utils.ladder.pyramid import band_shapes
from utils.ladder.symbols import LADDER_GAIN, LADDER_REGION

PER_OCTAVE = 4
LARGEST = LADDER_REGION - 1  # of each number


class Region(NamedTuple):
    """A disk with a finer step.

    Args:
        row: of the centre, in pixels of the field.
        column: of the centre.
        radius: in pixels.
        gain: the step inside is 2^(-gain / PER_OCTAVE) times the step outside.
    """

    row: int
    column: int
    radius: int
    gain: int

    def check(self) -> None:
        """Raise a ValueError for numbers that cannot be transmitted."""
        if not all(0 <= value <= LARGEST for value in self) or self.gain > LADDER_GAIN:
            raise ValueError(f"{self}: expected whole numbers from 0 to {LARGEST}, and gain to {LADDER_GAIN}")


def region_of(center: tuple[float, float], radius: float, weight: float) -> Region:
    """Return the nearest region that can be transmitted.

    Args:
        center: (row, column) in pixels of the field; moved into it.
        radius: in pixels.
        weight: how many times finer the step is inside, 1 or more.
    """
    if not 1 <= weight <= 2**8:
        raise ValueError(f"the weight of the heart is {weight}: expected 1 to 256")
    row, column = (max(0, round(value)) for value in center)
    return Region(row, column, max(1, round(radius)), round(PER_OCTAVE * math.log2(weight)))


def band_weights(region: Region, height: int, width: int, device: torch.device) -> list[list[Tensor]]:
    """Return the factor of each coefficient, (h, w) for each band of each level."""
    weights = []
    for level in band_shapes(height, width):
        bands = []
        for rows, columns in level:
            y = (torch.arange(rows, device=device) + 0.5) * (height / max(1, rows)) - 0.5 - region.row
            x = (torch.arange(columns, device=device) + 0.5) * (width / max(1, columns)) - 0.5 - region.column
            inside = y[:, None].square() + x.square() <= region.radius**2
            bands.append(torch.where(inside, 2.0 ** (region.gain / PER_OCTAVE), 1.0))
        weights.append(bands)
    return weights
