"""Trivial baselines: zero tokens, tokens of another patient, and tokens of the same patient at wrong positions.

Axes: D slices, T phases, K latent tokens a frame, A anatomy tokens a key frame; tokens are (D, 2 + T*K + 2*A), the
indices of ED and ES first, -1 if not transmitted.
"""

from __future__ import annotations

import numpy as np


def zeroed(tokens: np.ndarray) -> np.ndarray:
    """Every transmitted id becomes 0; the indices of ED and ES are kept."""
    return np.concatenate([tokens[:, :2], np.where(tokens[:, 2:] >= 0, 0, tokens[:, 2:])], axis=1)


def borrowed(source: np.ndarray, source_phases: int, slices: int, phases: int, anatomy_tokens: int) -> np.ndarray:
    """The tokens of another patient in the shape of this patient.

    Args:
        source: (D', 2 + T'*K + 2*A) tokens of the other patient.
        source_phases: T'.
        slices: D of this patient; slices are matched by relative position.
        phases: T of this patient; phases, and with them the ED and ES indices, are matched by relative phase.
        anatomy_tokens: A.

    Returns:
        (D, 2 + T*K + 2*A).
    """
    rows = source[((np.arange(slices) + 0.5) * len(source) / slices).astype(int)]
    keys, ids, anatomy = np.split(rows, [2, rows.shape[1] - 2 * anatomy_tokens], axis=1)
    matched = np.floor(np.arange(phases) * source_phases / phases + 0.5).astype(int) % source_phases
    ids = ids.reshape(slices, source_phases, -1)[:, matched].reshape(slices, -1)
    moved = np.floor(keys * phases / source_phases + 0.5).astype(int) % phases
    return np.concatenate([np.where(keys >= 0, moved, -1), ids, anatomy], axis=1)


def shuffled_within(tokens: np.ndarray, phases: int, anatomy_tokens: int) -> np.ndarray:
    """The tokens of the patient, shifted by half a stack; for a single slice by half a cycle. The indices are kept."""
    keys, ids, anatomy = np.split(tokens, [2, tokens.shape[1] - 2 * anatomy_tokens], axis=1)
    if len(tokens) > 1:
        shift = len(tokens) // 2
        return np.concatenate([keys, np.roll(ids, shift, axis=0), np.roll(anatomy, shift, axis=0)], axis=1)
    moved = np.roll(ids.reshape(phases, -1), phases // 2, axis=0).reshape(1, -1)
    return np.concatenate([keys, moved, anatomy], axis=1)
