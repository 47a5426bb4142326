"""Uniform quantizer of coefficients; its step is given by an index, 32 steps an octave.

One step size serves all coefficients. A symbol q stands for the value q * step. Values are rounded with an offset below
1/2 (`OFFSET`), so more of them become the smaller symbol. This saves bits and costs little error.

Source: Sullivan, Efficient scalar quantization of exponential and Laplacian random variables, 1996.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from utils.ladder.symbols import LADDER_STEPS

PER_OCTAVE = 32
FINEST = 2.0**-10  # step of index 0
STEPS = LADDER_STEPS  # indices 0 to 447, steps 0.00098 to 15.7
OFFSET = 0.40


def step_size(index: int) -> float:
    """Return the step of an index.

    Raises:
        ValueError: for an index that is not 0 to STEPS - 1.
    """
    if not 0 <= index < STEPS:
        raise ValueError(f"step index {index}: expected 0 to {STEPS - 1}")
    return FINEST * 2.0 ** (index / PER_OCTAVE)


def nearest_index(step: float) -> int:
    """Return the index of the nearest step on a logarithmic scale, 0 to STEPS - 1."""
    return min(max(round(PER_OCTAVE * math.log2(step / FINEST)), 0), STEPS - 1)


def quantize(coefficients: Tensor, step: float, offset: float = OFFSET) -> Tensor:
    """Quantize coefficients to symbols.

    Args:
        coefficients: any shape, floating point.
        step: step size.
        offset: rounding offset; 0.5 rounds to the nearest integer.

    Returns:
        Integers of the same shape, int32.
    """
    scaled = coefficients / step
    return (scaled.sign() * torch.floor(scaled.abs() + offset)).int()
