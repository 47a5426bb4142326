"""Mean differences between two rate-distortion curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

LEAST_POINTS = 4


class Delta(NamedTuple):
    """A method compared with an anchor.

    Args:
        rate_percent: mean difference of the rates at equal quality, in %; negative where the method needs less.
        quality: mean difference of the qualities at equal rate, e.g. in dB; positive where the method is better.
    """

    rate_percent: float
    quality: float


def bjontegaard(
    anchor_rate: Sequence[float], anchor_quality: Sequence[float], rate: Sequence[float], quality: Sequence[float]
) -> Delta:
    """Mean differences of rate and quality of a method from an anchor, over the range that both curves cover.

    Points that cost more than another point and are no better are left out. Curves are interpolated by PCHIP over the
    logarithm of the rate.

    Args:
        anchor_rate: of each point, above 0, in any unit and order.
        anchor_quality: of each point, e.g. PSNR in dB.
        rate: of each point of the method, in the same unit.
        quality: of each point of the method.

    Returns:
        NaN where the curves have no common range, or a curve has fewer than four points.

    Source: Bjontegaard, ITU-T VCEG-M33, 2001; with PCHIP as in the common test conditions, JCTVC-L1100, 2013.
    """
    curves = _curve(anchor_rate, anchor_quality), _curve(rate, quality)
    if min(len(logs) for logs, _ in curves) < LEAST_POINTS:
        return Delta(math.nan, math.nan)
    log_ratio = _mean_difference(*((qualities, logs) for logs, qualities in curves))
    return Delta(100 * (math.exp(log_ratio) - 1), _mean_difference(*curves))


def _curve(rate: Sequence[float], quality: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of the rates and the qualities, both strictly rising."""
    rates, qualities = np.asarray(rate, float), np.asarray(quality, float)
    if rates.shape != qualities.shape or not (rates > 0).all() or not np.isfinite([rates, qualities]).all():
        raise ValueError(f"rates are {rate} and qualities {quality}, expected as many finite values, rates above 0")
    order = np.lexsort((-qualities, rates))  # of equal rates the best comes first
    best = np.maximum.accumulate(qualities[order])
    kept = order[np.diff(best, prepend=-np.inf) > 0]
    return np.log(rates[kept]), qualities[kept]


def _mean_difference(anchor: tuple[np.ndarray, np.ndarray], method: tuple[np.ndarray, np.ndarray]) -> float:
    """Mean of method - anchor, curves (x, y), over the x that both cover; NaN without such x."""
    low, high = max(anchor[0][0], method[0][0]), min(anchor[0][-1], method[0][-1])
    if low >= high:
        return math.nan
    areas = [float(PchipInterpolator(x, y).integrate(low, high)) for x, y in (anchor, method)]
    return (areas[1] - areas[0]) / (high - low)
