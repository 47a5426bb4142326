"""What a cardiologist measures: overlap, distances, volumes, ejection fraction, agreement."""

import math

import numpy as np
from medpy.metric.binary import dc


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks of one shape: NaN where both are empty (not applicable), 0 where one is."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape}: expected the same")
    if not (a.any() or b.any()):
        return math.nan
    return float(dc(a, b))
