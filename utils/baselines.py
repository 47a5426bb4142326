"""Tokens of trivial baselines: without content, of another patient, or of the same patient at the wrong place.

Axes: D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import numpy as np

from utils.layout import Field, TokenLayout

Grid = tuple[int, int]  # slices and phases


def zeroed(layout: TokenLayout, tokens: np.ndarray, grid: Grid) -> np.ndarray:
    """Every transmitted id becomes 0; the phases of ED and ES stay."""
    parts = layout.split(tokens, *grid)
    for field in layout.fields(*grid):
        if not field.is_index:
            parts[field.name] = np.minimum(parts[field.name], 0)
    return layout.join(parts)


def borrowed(layout: TokenLayout, source: np.ndarray, source_grid: Grid, grid: Grid) -> np.ndarray:
    """Another patient's tokens in this patient's shape.

    Args:
        layout: of both patients' tokens.
        source: the other patient's tokens, of `source_grid` slices and phases.
        source_grid: D' and T' of the other patient.
        grid: D and T of this patient; slices and phases, and with them the phases of ED and ES, are matched by
            relative position.
    """
    (slices, phases), (source_slices, source_phases) = grid, source_grid
    places = {
        "slice": ((np.arange(slices) + 0.5) * source_slices / slices).astype(int),
        "phase": np.floor(np.arange(phases) * source_phases / phases + 0.5).astype(int) % source_phases,
    }
    parts = layout.split(source, *source_grid)
    for field in layout.fields(*source_grid):
        values = parts[field.name]
        for axis, name in enumerate(field.axes):
            values = np.take(values, places[name], axis) if name in places else values
        if field.is_index:
            moved = np.floor(values * phases / source_phases + 0.5).astype(int) % phases
            values = np.where(values >= 0, moved, -1)
        parts[field.name] = values
    return layout.join(parts)


def shuffled_within(layout: TokenLayout, tokens: np.ndarray, grid: Grid) -> np.ndarray:
    """One patient's own tokens, half a stack away; of one slice half a cycle away. The phases of ED and ES stay."""
    parts = layout.split(tokens, *grid)
    for field in layout.fields(*grid):
        axis = None if field.is_index else _shifted_axis(field, grid)
        if axis is not None:
            parts[field.name] = np.roll(parts[field.name], field.shape[axis] // 2, axis)
    return layout.join(parts)


def _shifted_axis(field: Field, grid: Grid) -> int | None:
    """The axis along which tokens are moved: slices, of one slice phases, without either the tokens themselves."""
    wanted = "token" if "slice" not in field.axes else "slice" if grid[0] > 1 else "phase"
    return field.axes.index(wanted) if wanted in field.axes else None
