"""Symbols of the rate ladder: the binary decisions that make up each, and the token ids that they become.

    ZERO        is the symbol 0?
    SIGN        is it negative?
    UNARY + k   is the exponent of its magnitude, floor(log2 |q|), larger than k? From k = EXPONENTS on, the last one
    FIRST_BIT   first bit of the mantissa after exponent 1; FIRST_BIT + 1 after larger exponents
    The other bits of the mantissa are not predicted.

A residual id of the token layout `ladder` is 2 q - 1 for a symbol q > 0 and -2 q for q <= 0; it is -1 in a band that
holds only zeros.

Axes: D slices, R components, H and W of an image, h and w of a band.
"""

import numpy as np

from utils.ladder.pyramid import from_flat, to_flat, to_levels

ZERO, SIGN, UNARY = 0, 1, 2
EXPONENTS = 10
FIRST_BIT = UNARY + EXPONENTS
DECISIONS = FIRST_BIT + 2
MAX_EXPONENT = 24  # of a symbol that can be coded

PRECISION = 16  # bits of a probability
PER_UNIT = 16  # quantized logits a unit
LAST = 192  # quantized logits lie in [-LAST, LAST]
LADDER_STEPS, LADDER_REGION, LADDER_BASIS, LADDER_RESIDUAL = 448, 1 << 13, 127, 1 << 26  # ids of the token layout
LADDER_GAIN = 32  # largest gain of a region
ENERGIES = 24  # classes of the mean magnitude of a band; class 0 holds only zeros


def residual_ids(bands: list[np.ndarray], nonzero: np.ndarray) -> np.ndarray:
    """Return the residual ids (D, R, H * W) int64 of symbols.

    Args:
        bands: symbols (D, R, h, w) in coding order.
        nonzero: (bands, R) bool, False for a band of zeros.
    """
    wide = (band.astype(np.int64) for band in bands)
    ids = [np.where(band > 0, 2 * band - 1, -2 * band) for band in wide]
    return to_flat([np.where(row[None, :, None, None], band, -1) for row, band in zip(nonzero, ids, strict=True)])


def from_residual_ids(residual: np.ndarray, height: int, width: int) -> list[list[np.ndarray]]:
    """Return the symbols (D, R, h, w) int32 for each band of each level, of residual ids (D, R, H * W)."""
    sizes = (residual + 1) // 2
    return to_levels(from_flat(np.where(residual % 2 == 1, sizes, -sizes).astype(np.int32), height, width))
