"""Clinical measures: overlap and distance of structures, volumes, ejection fraction, agreement.

Axes: H height, W width, D slices. Masks hold 0 background, 1 RV, 2 MYO, 3 LV.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from medpy.metric.binary import assd, dc, hd95

from utils.labels import STRUCTURES

KEY_FRAMES = ("ED", "ES")
MYOCARDIUM_G_PER_ML = 1.05

Masks = Mapping[str, np.ndarray]  # "ED" and "ES", as far as known -> (H, W, D)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice of two masks of one shape: NaN if both are empty (not applicable), 0 if one is empty.

    Raises:
        ValueError: when the shapes differ.
    """
    a, b = _pair(a, b)
    if not (a.any() or b.any()):
        return math.nan
    return float(dc(a, b))


def hausdorff95(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """95th percentile of the surface distances in mm: NaN if both are empty, the diagonal of the volume if one is.

    A stack of one slice is measured in 2-D, by its contours.

    Args:
        a: mask.
        b: mask of the same shape.
        spacing_mm: along each axis.

    Raises:
        ValueError: when the shapes differ.
    """
    return _surface_distance(hd95, a, b, spacing_mm)


def mean_surface_distance(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Average symmetric surface distance (ASSD) in mm; empty masks as in `hausdorff95`.

    Args:
        a: mask.
        b: mask of the same shape.
        spacing_mm: along each axis.

    Raises:
        ValueError: when the shapes differ.
    """
    return _surface_distance(assd, a, b, spacing_mm)


def _surface_distance(
    measure: Callable[..., float], a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]
) -> float:
    a, b = _pair(a, b)
    if not (a.any() or b.any()):
        return math.nan
    if 1 in a.shape[2:]:  # one slice has contours: in 3-D, each of its voxels would be surface
        return _surface_distance(measure, a[..., 0], b[..., 0], spacing_mm[:2])
    if not (a.any() and b.any()):
        return float(np.linalg.norm(np.array(a.shape) * np.array(spacing_mm)))
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(a | b))  # faster, same surfaces
    return float(measure(a[box], b[box], voxelspacing=tuple(spacing_mm)))


def _pair(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape}, expected equal shapes")
    return a, b


def phase_error_percent(phase: int, truth: int, phases: int) -> float:
    """Distance of two phases around the cycle, in % of the cycle: 0 to 50."""
    apart = abs(phase - truth) % phases
    return 100 * min(apart, phases - apart) / phases


def volume_ml(mask: np.ndarray, label: int, spacing_mm: Sequence[float]) -> float:
    """Volume of a label in mL: number of voxels x volume of a voxel in mm3 / 1000."""
    return float(np.count_nonzero(mask == label) * math.prod(spacing_mm) / 1000)


def ejection_fraction(edv: float, esv: float) -> float:
    """100 (EDV - ESV) / EDV in %, never clipped; NaN if EDV is not above 0."""
    return 100 * (edv - esv) / edv if edv > 0 else math.nan


def body_surface_m2(height_cm: float | None, weight_kg: float | None) -> float:
    """Body surface in m2, by which volumes are indexed; NaN where height or weight is unknown or not above 0.

    Source: Mosteller, N Engl J Med 317, 1987: sqrt(height in cm x weight in kg / 3600).
    """
    if height_cm is None or weight_kg is None or min(height_cm, weight_kg) <= 0:
        return math.nan
    return math.sqrt(height_cm * weight_kg / 3600)


DISTANCES = {"hd95": hausdorff95, "assd": mean_surface_distance}


def overlaps(truth: Masks, prediction: Masks) -> dict[str, float]:
    """`dice_RV_ED` ... of each structure and key frame over the whole stack, and `dice_mean` of those that apply."""
    values = {
        f"dice_{name}_{phase}": dice(mask == label, prediction[phase] == label)
        for phase, mask in truth.items()
        for name, label in STRUCTURES.items()
    }
    known = [value for value in values.values() if not math.isnan(value)]
    return {**values, "dice_mean": float(np.mean(known)) if known else math.nan}


def distances(truth: Masks, prediction: Masks, spacing_mm: Sequence[float]) -> dict[str, float]:
    """`hd95_RV_ED` ... and `assd_RV_ED` ... in mm."""
    return {
        f"{kind}_{name}_{phase}": measure(mask == label, prediction[phase] == label, spacing_mm)
        for kind, measure in DISTANCES.items()
        for phase, mask in truth.items()
        for name, label in STRUCTURES.items()
    }


def function(masks: Masks, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Volumes in mL, EF in % and LV mass in g; NaN where a key frame is unknown.

    Returns:
        lv_edv, lv_esv, lv_ef, rv_edv, rv_esv, rv_ef, lv_mass.
    """
    measures: dict[str, float] = {}
    for side, label in (("lv", STRUCTURES["LV"]), ("rv", STRUCTURES["RV"])):
        edv, esv = (volume_ml(masks[p], label, spacing_mm) if p in masks else math.nan for p in KEY_FRAMES)
        measures |= {f"{side}_edv": edv, f"{side}_esv": esv, f"{side}_ef": ejection_fraction(edv, esv)}
    wall = volume_ml(masks["ED"], STRUCTURES["MYO"], spacing_mm) if "ED" in masks else math.nan
    return {**measures, "lv_mass": MYOCARDIUM_G_PER_ML * wall}


FUNCTION = tuple(function({}, (1.0, 1.0, 1.0)))


def bland_altman(truth: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    """Bias (measured - truth) and 95 % limits of agreement, bias ± 1.96 standard deviations, over n known pairs.

    Source: Bland and Altman, Lancet 327, 1986.
    """
    difference = np.asarray(measured, float) - np.asarray(truth, float)
    difference = difference[np.isfinite(difference)]
    n = len(difference)
    bias = float(difference.mean()) if n else math.nan
    reach = 1.96 * float(difference.std(ddof=1)) if n > 1 else math.nan
    return {"bias": bias, "low": bias - reach, "high": bias + reach, "n": n}
