"""Clinical equivalence of compressed and original cines: what a segmenter measures before and after compression.

Each quantity is compared patient by patient. Intervals are 95 % percentile intervals of a bootstrap over patients, so
they hold for new patients of the same kind, and not for another segmenter or scanner.

Axes: S settings of a method, n patients, B resamples of the bootstrap.

Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993 (percentile interval); Bland and Altman, Lancet
327, 1986; Wilcoxon, Biometrics Bulletin 1, 1945.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

QUANTILES = (0.025, 0.975)
LIMITS_OF_AGREEMENT = 1.96  # standard deviations
VOLUMES = ("lv_edv", "lv_esv", "lv_ef", "rv_edv", "rv_esv", "rv_ef", "lv_mass")


@dataclass(frozen=True)
class Margins:
    """The largest changes by compression that count as equivalent.

    Args:
        dice: decrease of the mean Dice.
        ef_bias: mean difference of the LV EF from that of the original, in points of EF, either way.
        ef_limits: increase of the reach of the limits of agreement of the LV EF with the ground truth, in points of EF.
    """

    dice: float = 0.01
    ef_bias: float = 1.0
    ef_limits: float = 1.0


@dataclass(frozen=True)
class Measured:
    """One method, measured by one segmenter on the same patients as its original.

    Args:
        method: name of the codec or model.
        segmenter: name of the segmenter.
        settings: S names, from the lowest ratio to the highest.
        bytes_per_frame: (S,).
        ratio: (S,) against int16.
        psnr: (S,) in dB.
        hearts: quantity -> (S, n), as data/scoring/heart.py names them.
        original: quantity -> (n,), of the segmented original.
        truth: quantity -> (n,), volumes of the ground truth.
        groups: n diagnoses.
    """

    method: str
    segmenter: str
    settings: Sequence[str]
    bytes_per_frame: np.ndarray
    ratio: np.ndarray
    psnr: np.ndarray
    hearts: Mapping[str, np.ndarray]
    original: Mapping[str, np.ndarray]
    truth: Mapping[str, np.ndarray]
    groups: Sequence[str]


def resampled(patients: int, resamples: int, seed: int = 0) -> np.ndarray:
    """Return the patients of each resample of the bootstrap, (B, n); equal arguments give equal patients."""
    return np.random.default_rng(seed).integers(0, patients, (resamples, patients))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of (B,) values; NaN if one of them is NaN."""
    low, high = np.quantile(values, QUANTILES, method="inverted_cdf")
    return float(low), float(high)


def changes(measured: Measured, patients: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the three changes of the criterion, for each resample.

    Args:
        measured: one method.
        patients: (B, n) indices of patients.

    Returns:
        `dice`, `ef_bias` and `ef_limits`, see `Margins`, each (B, S). NaN where a patient's value is unknown.
    """
    ef, dice = measured.hearts["lv_ef"], measured.hearts["dice_mean"]
    ef_original, ef_truth = measured.original["lv_ef"], measured.truth["lv_ef"]

    def mean(values: np.ndarray) -> np.ndarray:  # (S, n) -> (B, S)
        return values[:, patients].mean(axis=2).T

    def reach(values: np.ndarray) -> np.ndarray:  # (S, n) -> (B, S)
        return LIMITS_OF_AGREEMENT * values[:, patients].std(axis=2, ddof=1).T

    return {
        "dice": mean(measured.original["dice_mean"] - dice),
        "ef_bias": mean(ef - ef_original),
        "ef_limits": reach(ef - ef_truth) - reach((ef_original - ef_truth)[None]),
    }


def excess(change: Mapping[str, np.ndarray], margins: Margins) -> np.ndarray:
    """Return the largest change in units of its margin; a setting is equivalent up to 1. NaN counts as not equivalent.

    Args:
        change: as `changes` returns it.
        margins: see `Margins`.

    Returns:
        (B, S).
    """
    parts = [change["dice"] / margins.dice, abs(change["ef_bias"]) / margins.ef_bias]
    worst = np.maximum.reduce([*parts, change["ef_limits"] / margins.ef_limits])
    return np.where(np.isnan(worst), np.inf, worst)


def highest_ratio(ratio: np.ndarray, worst: np.ndarray) -> float:
    """Return the highest ratio up to which every lower ratio is equivalent, too.

    Between the last equivalent setting and the first other one, the change is interpolated on the logarithm of the
    ratio.

    Args:
        ratio: (S,) increasing.
        worst: (S,) of `excess`.

    Returns:
        The ratio; 0 if the lowest ratio is not equivalent, inf if all are.
    """
    outside = np.flatnonzero(worst > 1)
    if not outside.size:
        return math.inf
    first = int(outside[0])
    if first == 0:
        return 0.0
    if not math.isfinite(worst[first]):
        return float(ratio[first - 1])
    place = (1 - worst[first - 1]) / (worst[first] - worst[first - 1])
    return float(ratio[first - 1] * (ratio[first] / ratio[first - 1]) ** place)


def headline(measured: Measured, margins: Margins, patients: np.ndarray) -> dict[str, Any]:
    """Find the highest equivalent ratio of a method, with its interval.

    Args:
        measured: one method.
        margins: see `Margins`.
        patients: (B, n) of the bootstrap.

    Returns:
        `ratio`, `bytes_per_frame` (interpolated at this ratio), `interval` of the ratio, `resamples`: (B,) ratios. A
        ratio is 0 where the lowest measured ratio is not equivalent, and inf where all are.
    """
    everyone = np.arange(patients.shape[1])[None]
    ratio = highest_ratio(measured.ratio, excess(changes(measured, everyone), margins)[0])
    samples = np.array([highest_ratio(measured.ratio, row) for row in excess(changes(measured, patients), margins)])
    known = 0 < ratio < math.inf
    log_bytes = np.interp(math.log(ratio), np.log(measured.ratio), np.log(measured.bytes_per_frame)) if known else None
    return {
        "ratio": ratio,
        "bytes_per_frame": None if log_bytes is None else math.exp(log_bytes),
        "interval": interval(samples),
        "resamples": samples,
    }


def criterion(measured: Measured, margins: Margins, patients: np.ndarray) -> list[dict[str, Any]]:
    """Compute the changes of each setting, with intervals, tests, and whether all are within the margins.

    Args:
        measured: one method.
        margins: see `Margins`.
        patients: (B, n) of the bootstrap.

    Returns:
        For each setting: `equivalent`, `certain` (whether the whole intervals are within the margins), `p_dice`
        (Wilcoxon, Dice against that of the original), `p_ef` (EF), and for `dice`, `ef_bias` and `ef_limits` the change
        and its interval, such as `dice` and `dice_interval`.
    """
    everyone = changes(measured, np.arange(patients.shape[1])[None])
    samples, worst = changes(measured, patients), excess(everyone, margins)[0]
    rows = []
    for index in range(len(measured.settings)):
        row: dict[str, Any] = {"equivalent": bool(worst[index] <= 1)}
        for key, values in everyone.items():
            row |= {key: float(values[0, index]), f"{key}_interval": interval(samples[key][:, index])}
        ends = {key: np.array(row[f"{key}_interval"])[:, None] for key in everyone}  # both ends as two resamples
        row["certain"] = bool((excess(ends, margins) <= 1).all())
        for name, key in (("dice", "dice_mean"), ("ef", "lv_ef")):
            row[f"p_{name}"] = paired_test(measured.original[key], measured.hearts[key][index])
        rows.append(row)
    return rows


def certain_ratio(ratio: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the highest measured ratio up to which the whole intervals of all settings are within the margins.

    Args:
        ratio: (S,) increasing.
        rows: as `criterion` returns them.

    Returns:
        The ratio; None if the lowest one is not certain.
    """
    outside = [index for index, row in enumerate(rows) if not row["certain"]]
    last = (outside[0] if outside else len(rows)) - 1
    return float(ratio[last]) if last >= 0 else None


def paired_test(before: np.ndarray, after: np.ndarray) -> float:
    """Return the two-sided p value of Wilcoxon's signed-rank test over known pairs; 1 if none differs, NaN for none."""
    difference = (after - before)[np.isfinite(after - before)]
    if not difference.size:
        return math.nan
    return float(wilcoxon(difference).pvalue) if difference.any() else 1.0


def agreement(reference: np.ndarray, measured: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Compute bias, limits of agreement and correlation, each with an interval.

    Args:
        reference: (n,) values of the ground truth or of the original.
        measured: (n,) values of the reconstruction.
        patients: (B, n) of the bootstrap.

    Returns:
        `n`, `bias`, `low`, `high` (limits of agreement), `correlation` (Pearson), and `bias_interval`,
        `reach_interval` (of half the distance between the limits) and `correlation_interval`. Pairs with an unknown
        value are left out; the intervals are NaN if there is one.
    """
    known = np.isfinite(reference) & np.isfinite(measured)
    difference = (measured - reference)[known]
    reach = LIMITS_OF_AGREEMENT * float(difference.std(ddof=1)) if known.sum() > 1 else math.nan
    bias = float(difference.mean()) if known.any() else math.nan
    samples = (measured - reference)[patients]  # (B, n)
    return {
        "n": int(known.sum()),
        "bias": bias,
        "low": bias - reach,
        "high": bias + reach,
        "correlation": float(_correlation(reference[known][None], measured[known][None])[0]),
        "bias_interval": interval(samples.mean(axis=1)),
        "reach_interval": interval(LIMITS_OF_AGREEMENT * samples.std(axis=1, ddof=1)),
        "correlation_interval": interval(_correlation(reference[patients], measured[patients])),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # (B, n), (B, n) -> (B,)
    if not x.shape[1]:
        return np.full(len(x), np.nan)
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), scale, out=np.full(len(x), np.nan), where=scale > 0)


def by_group(measured: Measured, index: int) -> dict[str, dict[str, float]]:
    """Return the changes of one setting by diagnosis: `n`, `dice` (decrease of Dice) and `ef_bias`.

    Args:
        measured: one method.
        index: of the setting.
    """
    drop = measured.original["dice_mean"] - measured.hearts["dice_mean"][index]
    bias = measured.hearts["lv_ef"][index] - measured.original["lv_ef"]
    groups = np.array(measured.groups)
    return {
        str(group): {
            "n": int((groups == group).sum()),
            "dice": float(drop[groups == group].mean()),
            "ef_bias": float(bias[groups == group].mean()),
        }
        for group in np.unique(groups)
    }


def worst_group(groups: Mapping[str, Mapping[str, float]], margins: Margins) -> str:
    """Return the diagnosis with the largest change of Dice or of EF, in units of their margins."""

    def size(group: str) -> float:
        change = max(groups[group]["dice"] / margins.dice, abs(groups[group]["ef_bias"]) / margins.ef_bias)
        return math.inf if math.isnan(change) else change

    return max(groups, key=size)
