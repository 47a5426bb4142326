"""The heart's part of the report: means by structure and phase, agreement of volumes, and diagnoses.

The rows hold the keys of data/scoring/heart.py. They are absent without labels or without a reference segmenter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from utils.clinical import KEY_FRAMES, bland_altman
from utils.labels import STRUCTURES
from utils.metrics import cohort, finite_mean
from utils.report.columns import Table

MEASURED = {
    "lv_edv": "LV EDV (mL)",
    "lv_esv": "LV ESV (mL)",
    "lv_ef": "LV EF (%)",
    "rv_edv": "RV EDV (mL)",
    "rv_esv": "RV ESV (mL)",
    "rv_ef": "RV EF (%)",
    "lv_mass": "LV mass (g)",
}
Rows = Sequence[Mapping[str, Any]]


def scored_patients(rows: Rows) -> list[Mapping[str, Any]]:
    """The rows of patients whose heart was scored."""
    return [row for row in rows if "dice_mean" in row]


def dice_table(rows: Rows, suffix: str) -> dict[str, float]:
    """Cohort means of Dice by structure and phase, by structure, and of all: `LV_ED`, ..., `LV`, ..., `mean`."""
    means = {
        f"{name}_{phase}": finite_mean(row.get(f"dice_{name}_{phase}{suffix}") for row in rows)
        for phase in KEY_FRAMES
        for name in STRUCTURES
    }
    by_structure = {name: finite_mean(means[f"{name}_{phase}"] for phase in KEY_FRAMES) for name in STRUCTURES}
    return {**means, **by_structure, "mean": finite_mean(row.get(f"dice_mean{suffix}") for row in rows)}


def agreement(rows: Rows, suffix: str) -> dict[str, dict[str, float]]:
    """Bias and limits of agreement (Bland-Altman) of each volume, EF and mass against the ground truth."""
    return {key: bland_altman(*pairs(rows, key, suffix)) for key in MEASURED}


def pairs(rows: Rows, key: str, suffix: str = "") -> tuple[list[float], list[float]]:
    """(ground truth, measured) of a quantity, one value a patient."""
    return [row[f"{key}_truth"] for row in rows], [row[f"{key}{suffix}"] for row in rows]


def by_group(rows: Rows) -> dict[str, dict[str, Any]]:
    """PSNR, Dice and EF error by diagnosis, each with its number of patients."""
    groups = sorted({str(row.get("group") or "unknown") for row in rows})
    members = {group: [row for row in rows if str(row.get("group") or "unknown") == group] for group in groups}
    return {
        group: {"n": len(rows), **cohort(rows, ("psnr", "psnr_heart", "dice_mean", "lv_ef_error"))["mean"]}
        for group, rows in members.items()
    }


def is_known(value: float | None) -> bool:
    """Whether a value was measured: neither missing nor NaN."""
    return value is not None and math.isfinite(value)


def worst_group(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The diagnosis with the worst mean of each metric.

    Args:
        groups: diagnosis -> metric -> mean, as `by_group` gives them.

    Returns:
        {metric: {"group", "value"}}; unknown diagnoses are left out.
    """
    worst = {}
    for metric, choose in (("psnr", min), ("psnr_heart", min), ("dice_mean", min), ("lv_ef_error", max)):
        known = {
            group: means[metric]
            for group, means in groups.items()
            if group != "unknown" and is_known(means.get(metric))
        }
        if known:
            group = choose(known, key=known.__getitem__)
            worst[metric] = {"group": group, "value": known[group]}
    return worst


def summarize(rows: Rows) -> dict[str, Any]:
    """The heart's part of summary.json, for the reported model; empty where no heart was scored.

    Returns:
        {"dice", "dice_original", "bland_altman", "bland_altman_original", "groups", "worst_group"}.
    """
    scored = scored_patients(rows)
    if not scored:
        return {}
    groups = by_group(scored)
    return {
        "dice": dice_table(scored, ""),
        "dice_original": dice_table(scored, "_original"),
        "bland_altman": agreement(scored, ""),
        "bland_altman_original": agreement(scored, "_original"),
        "groups": groups,
        "worst_group": worst_group(groups),
    }


def tables(hearts: Mapping[str, Any], rows: Rows) -> list[Table]:
    """The tables of Dice and distances, of volumes, and of diagnoses.

    Args:
        hearts: as `summarize` gives them.
        rows: of the same patients.
    """
    return [_overlap_table(hearts, rows), _volume_table(hearts), _group_table(hearts)]


def _overlap_table(hearts: Mapping[str, Any], rows: Rows) -> Table:
    cells = []
    for key in (f"{name}_{phase}" for phase in KEY_FRAMES for name in STRUCTURES):
        overlap = [_text(hearts[kind][key], 3) for kind in ("dice", "dice_original")]
        distance = [_text(finite_mean(row.get(f"hd95_{key}{s}") for row in rows), 1) for s in ("", "_original")]
        cells.append([key.replace("_", " at "), *overlap, *distance])
    return Table(["", "Dice", "Dice, original", "HD95 (mm)", "HD95, original (mm)"], cells)


def _volume_table(hearts: Mapping[str, Any]) -> Table:
    def limits(difference: Mapping[str, float]) -> str:
        low, high = _text(difference["low"], 1), _text(difference["high"], 1)
        return f"{_text(difference['bias'], 1)} ({low} to {high})"

    cells = [
        [
            name,
            *(limits(hearts[kind][key]) for kind in ("bland_altman", "bland_altman_original")),
            str(hearts["bland_altman"][key]["n"]),
        ]
        for key, name in MEASURED.items()
    ]
    return Table(["", "bias (limits)", "bias (limits), original", "n"], cells)


def _group_table(hearts: Mapping[str, Any]) -> Table:
    decimals = {"psnr": 2, "psnr_heart": 2, "dice_mean": 3, "lv_ef_error": 1}

    def cell(group: str, metric: str) -> str:
        is_worst = hearts["worst_group"].get(metric, {}).get("group") == group and len(hearts["groups"]) > 1
        return _text(hearts["groups"][group][metric], decimals[metric]) + (" (worst)" if is_worst else "")

    cells = [
        [group, str(means["n"]), *(cell(group, metric) for metric in decimals)]
        for group, means in hearts["groups"].items()
    ]
    return Table(["group", "n", "PSNR (dB)", "heart PSNR (dB)", "Dice", "LV EF error (%)"], cells)


def _text(value: float, decimals: int) -> str:
    return "–" if value != value else f"{value:.{decimals}f}"
