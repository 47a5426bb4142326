"""Temporal basis of a cine: the eigenvectors of its Gram matrix over all pixels (Karhunen-Loeve transform, KLT).

The basis is transmitted as integers. Encoder and decoder compute the orthonormal basis from these integers alone, so
an error of the components is an error of the frames of the same size.

Axes: D slices, T phases of the cardiac cycle, R components, by falling energy.

Source: Jolliffe, Principal Component Analysis, 2002, chapter 3.
"""

from __future__ import annotations

import numpy as np

from utils.ladder.symbols import LADDER_BASIS

LIMIT = LADDER_BASIS // 2  # of an entry: 7 bits with the sign; finer ones do not raise the PSNR


def basis_ids(cine: np.ndarray, rank: int) -> np.ndarray:
    """Compute the integers of the temporal basis of a cine.

    Args:
        cine: (D, T, H, W), floating point.
        rank: number of components R, 1 to T.

    Returns:
        (T, R) int64, from -LIMIT to LIMIT.

    Raises:
        ValueError: for a rank out of range.
    """
    phases = cine.shape[1]
    if not 1 <= rank <= phases:
        raise ValueError(f"rank = {rank}: expected 1 to {phases}, the phases of the cine")
    rows = cine.swapaxes(0, 1).reshape(phases, -1).astype(np.float64)
    vectors = np.linalg.eigh(rows @ rows.T)[1][:, ::-1][:, :rank]
    vectors = vectors * np.where(vectors.sum(0) < 0, -1.0, 1.0)
    return np.rint(vectors * LIMIT).astype(np.int64)


def orthonormal(ids: np.ndarray) -> np.ndarray:
    """Compute the orthonormal basis of its integers by the modified Gram-Schmidt process.

    A column that depends on the columns before it is replaced by a unit vector, so that any integers give a basis.

    Args:
        ids: (T, R) integers, R <= T.

    Returns:
        (T, R) float64 with orthonormal columns.
    """
    phases, rank = ids.shape
    basis = np.zeros((phases, rank))
    for column in range(rank):
        for vector in [ids[:, column] / LIMIT, *np.eye(phases)]:
            for _ in range(2):  # the second pass removes what rounding left
                for known in basis[:, :column].T:
                    vector = vector - (known * vector).sum() * known
            norm = np.sqrt((vector * vector).sum())
            if norm > 1e-3:
                basis[:, column] = vector / norm
                break
    return basis
