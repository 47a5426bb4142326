"""From stored to real values, and the intensity window of a volume.

The same real values have exactly the same window, independent of the data type of the file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PERCENTILE_LOW, PERCENTILE_HIGH = 0.5, 99.5
RINGING = 0.05  # of the range between the percentiles: a volume further below 0 is shifted, not only noisy around black
NARROWEST = 1e-30  # smallest width of a window that float32 can divide by


def real_values(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Real values of stored values, any shape: float32, or the stored values if slope is 1 and intercept is 0.

    Values are rounded once, from float64, like those of a file without slope and intercept.
    """
    if (slope, intercept) == (1.0, 0.0):
        return stored
    return (stored.astype(np.float64) * slope + intercept).astype(np.float32)


def percentiles(cine: np.ndarray, wanted: Sequence[float], slope: float = 1.0, intercept: float = 0.0) -> list[float]:
    """Percentiles of the real values, as `np.percentile` gives them, to the bit the same however they are stored.

    Args:
        cine: stored values of any shape.
        wanted: in %.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
    """
    at = np.asarray(wanted) / 100 * (cine.size - 1)
    below = np.floor(at).astype(np.int64)
    above, part = np.minimum(below + 1, cine.size - 1), at - below
    flat = cine.ravel(order="K")  # in memory order, which is three times as fast
    ordered = np.partition(flat, sorted({*below.tolist(), *above.tolist()}))
    low, high = (real_values(ordered[index], slope, intercept).astype(np.float64) for index in (below, above))
    step = high - low
    found = np.where(part < 0.5, low + step * part, high - step * (1 - part))  # in the order of numpy's own rounding
    return [float(value) for value in found]


def window_of(cine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> tuple[float, float]:
    """The intensity window of a whole volume, in real values.

    Args:
        cine: (H, W, D, T) stored values.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
    Returns:
        (low, high): 0 and the 99.5th percentile. Of a volume that is shifted below 0 (its 0.5th percentile lies
        further below 0 than 5 % of the range to the 99.5th), low is the 0.5th percentile.
    Raises:
        ValueError: when the window is empty or not finite.
    """
    low, high = bounds(cine, slope, intercept)
    if not (np.isfinite([low, high]).all() and float(np.float32(high)) - float(np.float32(low)) > NARROWEST):
        raise ValueError(
            f"the {PERCENTILE_HIGH}th percentile of the volume is {high}, expected a finite value above {low}; "
            "the volume is empty or damaged: leave it out"
        )
    return low, high


def bounds(cine: np.ndarray, slope: float, intercept: float) -> tuple[float, float]:
    """As `window_of`, but an empty one is returned."""
    if real_values(cine.min(keepdims=True), slope, intercept).item() >= 0:
        return 0.0, percentiles(cine, [PERCENTILE_HIGH], slope, intercept)[0]
    low, high = percentiles(cine, [PERCENTILE_LOW, PERCENTILE_HIGH], slope, intercept)
    return (low if -low > RINGING * (high - low) else 0.0), high


def normalize(cine: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Map real values to float32 in [0, 1] by `window`, clipping what lies outside; any shape."""
    low, high = window
    scaled = (cine.astype(np.float32) - np.float32(low)) * np.float32(1.0 / (high - low))
    return np.clip(scaled, 0.0, 1.0, out=scaled)
