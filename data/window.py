"""Real values of stored values, and the intensity window of a volume.

Equal real values give exactly the same window for every data type of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILE_LOW, PERCENTILE_HIGH = 0.5, 99.5
RINGING = 0.05  # fraction of the range between the percentiles; noise and ringing below 0 are smaller than this
NARROWEST = 1e-12  # smallest width of a window
FINEST = 1e-6  # smallest width of a window as a fraction of its ends; float32 has no finer values


def real_values(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Convert stored values to real values, stored * slope + intercept.

    The values are computed in float64 and rounded once.

    Args:
        stored: stored values, any shape.
        slope: factor.
        intercept: offset.
    Returns:
        float32 of the same shape; the stored values unchanged if slope is 1 and intercept is 0.
    """
    if (slope, intercept) == (1.0, 0.0):
        return stored
    with np.errstate(over="ignore"):  # a window that is infinite is refused
        return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def percentiles(cine: np.ndarray, wanted: Sequence[float], slope: float = 1.0, intercept: float = 0.0) -> list[float]:
    """Compute percentiles of the real values as in `np.percentile`, bit-identical for every stored data type.

    Args:
        cine: stored values, any shape.
        wanted: percentiles in %, 0 to 100.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
    Returns:
        One real value per percentile.
    """
    at = np.asarray(wanted) / 100 * (cine.size - 1)
    below = np.floor(at).astype(np.int64)
    above, part = np.minimum(below + 1, cine.size - 1), at - below
    flat = cine.ravel(order="K")  # memory order is three times as fast
    ordered = np.partition(flat, sorted({*below.tolist(), *above.tolist()}))
    low, high = (real_values(ordered[index], slope, intercept).astype(np.float64) for index in (below, above))
    step = high - low
    result = np.where(part < 0.5, low + step * part, high - step * (1 - part))  # rounds like np.percentile
    return [float(value) for value in result]


def window_of(cine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> tuple[float, float]:
    """Return the intensity window of a whole volume, in real values.

    Args:
        cine: (H, W, D, T) stored values.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
    Returns:
        (low, high): 0 and the 99.5th percentile. If the 0.5th percentile is below 0 by more than 5 % of the range
        between both percentiles, low is the 0.5th percentile.
    Raises:
        ValueError: when the window is empty or not finite.
    """
    low, high = bounds(cine, slope, intercept)
    if not is_usable(low, high):
        raise ValueError(
            f"the {PERCENTILE_HIGH}th percentile of the volume is {high}, expected a finite value above {low}; "
            "the volume is empty or damaged: exclude it"
        )
    return low, high


def is_usable(low: float, high: float) -> bool:
    """Return whether real values can be mapped from the window (low, high) to [0, 1] in float32."""
    return bool(np.isfinite([low, high]).all()) and high - low > max(NARROWEST, FINEST * max(abs(low), abs(high)))


def bounds(cine: np.ndarray, slope: float, intercept: float) -> tuple[float, float]:
    """Return the window as `window_of` does, also an empty or infinite one.

    Args:
        cine: (H, W, D, T) stored values.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
    Returns:
        (low, high) in real values.
    """
    if real_values(cine.min(keepdims=True), slope, intercept).item() >= 0:
        return 0.0, percentiles(cine, [PERCENTILE_HIGH], slope, intercept)[0]
    low, high = percentiles(cine, [PERCENTILE_LOW, PERCENTILE_HIGH], slope, intercept)
    return (low if -low > RINGING * (high - low) else 0.0), high


def normalize(cine: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Map real values linearly from the window to [0, 1] and clip them.

    Args:
        cine: real values, any shape.
        window: (low, high) in real values.
    Returns:
        float32 in [0, 1] of the same shape.
    """
    low, high = window
    scaled = (cine.astype(np.float32) - np.float32(low)) * np.float32(1.0 / (high - low))
    return np.clip(scaled, 0.0, 1.0, out=scaled)
