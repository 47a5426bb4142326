"""Cosines along the slices and harmonics along the cycle: orthonormal on a grid of 8 slices and 20 phases.

A cine of any grid is interpolated to this grid, and waves can be evaluated at any slice and phase.
"""

import math

import torch
from torch import Tensor

SLICES, PHASES = 8, 20  # of the grid


def slice_waves(position: Tensor) -> Tensor:  # (..., D) in (0, 1)
    """Cosines of the DCT-II at positions of slices, (..., D, SLICES) float64."""
    order = torch.arange(SLICES, device=position.device, dtype=torch.float64)
    scale = ((1 + (order > 0).double()) / SLICES).sqrt()
    return (math.pi * order * position[..., None]).cos() * scale


def phase_waves(phase: Tensor) -> Tensor:  # (..., T) in cycles
    """Mean, cosines and sines of the cycle at phases, (..., T, PHASES) float64."""
    order = torch.arange(PHASES // 2 + 1, device=phase.device, dtype=torch.float64)
    scale = ((1 + (order % (PHASES // 2) > 0).double()) / PHASES).sqrt()
    angle = 2 * math.pi * order * phase[..., None]
    sines = (angle.sin() * scale)[..., 1:-1]  # that of the highest frequency is zero on the grid
    return torch.cat([angle.cos() * scale, sines], dim=-1)


def to_waves(values: Tensor, position: Tensor, phase: Tensor) -> Tensor:
    """Coefficients of the waves of one cine.

    Args:
        values: (D, T, M) float64, a vector a frame.
        position: (D,) positions of slices in (0, 1), increasing.
        phase: (T,) in cycles, in any order.

    Returns:
        (SLICES, PHASES, M) float64.
    """
    places = (torch.arange(SLICES, device=values.device, dtype=torch.float64) + 0.5) / SLICES
    moments = torch.arange(PHASES, device=values.device, dtype=torch.float64) / PHASES
    along_slices = slice_waves(places).T @ _between(places, position.double())  # (SLICES, D)
    along_phases = phase_waves(moments).T @ _around(moments, phase.double())  # (PHASES, T)
    return torch.einsum("sd,pt,dtm->spm", along_slices, along_phases, values)


def from_waves(coefficients: Tensor, position: Tensor, phase: Tensor) -> Tensor:
    """Vectors at slices and phases, the inverse of `to_waves` on the grid.

    Args:
        coefficients: (B, SLICES, PHASES, M).
        position: (B, D) positions of slices in (0, 1).
        phase: (B, T) in cycles.

    Returns:
        (B, D, T, M).
    """
    along_slices = slice_waves(position).to(coefficients.dtype)
    along_phases = phase_waves(phase).to(coefficients.dtype)
    return torch.einsum("btp,bdpm->bdtm", along_phases, torch.einsum("bds,bspm->bdpm", along_slices, coefficients))


def _between(places: Tensor, knots: Tensor) -> Tensor:
    """Matrix (places, knots) of linear interpolation between increasing knots; beyond the ends, the end is repeated."""
    if len(knots) == 1:
        return torch.ones_like(places)[:, None]
    places = places.clamp(float(knots[0]), float(knots[-1]))
    right = torch.searchsorted(knots, places).clamp(1, len(knots) - 1)
    share = (places - knots[right - 1]) / (knots[right] - knots[right - 1])
    matrix = places.new_zeros(len(places), len(knots))
    rows = torch.arange(len(places), device=places.device)
    matrix[rows, right - 1], matrix[rows, right] = 1 - share, share
    return matrix


def _around(moments: Tensor, phase: Tensor) -> Tensor:
    """Matrix (moments, phases) of linear interpolation around the cycle."""
    order = phase.argsort()
    knots = phase[order]
    matrix = _between(moments, torch.cat([knots[-1:] - 1, knots, knots[:1] + 1]))
    inner = matrix[:, 1:-1].clone()
    inner[:, -1] += matrix[:, 0]
    inner[:, 0] += matrix[:, -1]
    return inner[:, order.argsort()]
