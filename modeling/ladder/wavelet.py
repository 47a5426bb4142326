"""CDF 9/7 wavelet of images of any size, by lifting with symmetric extension.

The result is a pyramid, a list of levels from coarse to fine; see utils/ladder/pyramid.py. Each band is scaled
so that its synthesis functions have norm 1: then an error of the coefficients is almost an error of the pixels.

Source: Daubechies and Sweldens, Factoring wavelet transforms into lifting steps, 1998, section 7.7; scaling factor
of JPEG 2000 (ISO/IEC 15444-1, annex F).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from utils.ladder.pyramid import levels_for

ALPHA, BETA, GAMMA, DELTA = -1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971
SCALE = 1.149604398860241

Pyramid = list[list[Tensor]]


def forward(image: Tensor) -> Pyramid:
    """Transform images to a pyramid.

    Args:
        image: (..., H, W), floating point.

    Returns:
        The levels, coarse to fine, with bands (..., h, w).
    """
    levels: Pyramid = []
    for depth in range(1, levels_for(*image.shape[-2:]) + 1):
        low, high = _split(image)  # along the columns
        (image, high_low), (low_high, high_high) = _split_rows(low), _split_rows(high)
        levels.append(_scaled([low_high, high_low, high_high], depth))
    return [_scaled([image], len(levels)), *levels[::-1]]


def inverse(pyramid: Pyramid) -> Tensor:
    """Transform a pyramid to images (..., H, W), the inverse of `forward`."""
    levels = len(pyramid) - 1
    (image,) = _scaled(pyramid[0], levels, -1)
    for depth, level in zip(range(levels, 0, -1), pyramid[1:], strict=True):
        low_high, high_low, high_high = _scaled(level, depth, -1)
        image = _merge(_merge_rows(image, high_low), _merge_rows(low_high, high_high))
    return image


def _scaled(bands: list[Tensor], depth: int, sign: int = 1) -> list[Tensor]:
    """Multiply the bands of a level by the norms of their synthesis functions; with sign -1, divide."""
    low, high = _norms(depth)
    norms = [low * low] if len(bands) == 1 else [low * high, low * high, high * high]
    return [band * norm**sign for band, norm in zip(bands, norms, strict=True)]


@cache
def _norms(depth: int) -> tuple[float, float]:
    """Norms of the low-pass and the high-pass synthesis function in one dimension, `depth` levels from the signal."""
    if depth == 0:
        return 1.0, 1.0
    impulse, zeros = torch.zeros(16, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    impulse[8] = 1.0
    low, high = _merge(impulse, zeros), _merge(zeros, impulse)
    for _ in range(depth - 1):
        low, high = _merge(low, torch.zeros_like(low)), _merge(high, torch.zeros_like(high))
    return float(low.norm()), float(high.norm())


def _next(even: Tensor, count: int) -> Tensor:
    """Neighbours of the odd samples at their right: even samples 1, 2, ..., the last one mirrored."""
    return even[..., 1 : count + 1] if even.shape[-1] > count else torch.cat([even[..., 1:], even[..., -1:]], -1)


def _sides(odd: Tensor, count: int) -> Tensor:
    """Sum of the two odd neighbours of each even sample, mirrored at both ends."""
    right = odd if odd.shape[-1] == count else torch.cat([odd, odd[..., -1:]], -1)
    return right + torch.cat([odd[..., :1], right[..., : count - 1]], -1)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    even, odd = x[..., 0::2], x[..., 1::2]
    for on_odd, on_even in ((ALPHA, BETA), (GAMMA, DELTA)):
        odd = odd + on_odd * (even[..., : odd.shape[-1]] + _next(even, odd.shape[-1]))
        even = even + on_even * _sides(odd, even.shape[-1])
    return even * SCALE, odd / SCALE


def _merge(low: Tensor, high: Tensor) -> Tensor:
    even, odd = low / SCALE, high * SCALE
    for on_odd, on_even in ((GAMMA, DELTA), (ALPHA, BETA)):
        even = even - on_even * _sides(odd, even.shape[-1])
        odd = odd - on_odd * (even[..., : odd.shape[-1]] + _next(even, odd.shape[-1]))
    x = even.new_empty((*even.shape[:-1], even.shape[-1] + odd.shape[-1]))
    x[..., 0::2], x[..., 1::2] = even, odd
    return x


def _split_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    low, high = _split(x.transpose(-1, -2))
    return low.transpose(-1, -2), high.transpose(-1, -2)


def _merge_rows(low: Tensor, high: Tensor) -> Tensor:
    return _merge(low.transpose(-1, -2), high.transpose(-1, -2)).transpose(-1, -2)
