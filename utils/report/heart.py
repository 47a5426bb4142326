"""The heart's part of the report: means by structure and phase, agreement of volumes, and diagnoses.

A patient's row holds the keys of data/scoring/heart.py; a row without them has no labels, or nobody judged it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from utils.clinical import KEY_FRAMES, STRUCTURES, bland_altman
from utils.metrics import cohort, finite_mean

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


def judged(rows: Rows) -> list[Mapping[str, Any]]:
    """The rows of patients whose heart was scored."""
    return [row for row in rows if "dice_mean" in row]


def dice_table(rows: Rows, suffix: str) -> dict[str, float]:
    """Cohort means of Dice by structure and phase, by structure, and of all: `LV_ED`, ..., `LV`, ..., `mean`."""
    cells = {
        f"{name}_{phase}": finite_mean(row.get(f"dice_{name}_{phase}{suffix}") for row in rows)
        for phase in KEY_FRAMES
        for name in STRUCTURES
    }
    by_structure = {name: finite_mean(cells[f"{name}_{phase}"] for phase in KEY_FRAMES) for name in STRUCTURES}
    return {**cells, **by_structure, "mean": finite_mean(row.get(f"dice_mean{suffix}") for row in rows)}


def agreement(rows: Rows, suffix: str) -> dict[str, dict[str, float]]:
    """Bland-Altman figures of each volume, EF and mass against the ground truth."""
    return {key: bland_altman(*pairs(rows, key, suffix)) for key in MEASURED}


def pairs(rows: Rows, key: str, suffix: str = "") -> tuple[list[float], list[float]]:
    """(truth, measured) of a quantity, a value a patient."""
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
    """Whether a figure was measured: neither missing nor NaN."""
    return value is not None and math.isfinite(value)


def worst_group(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By figure, the diagnosis that fares worst and how: {figure: {"group", "value"}}; unknown diagnoses left out."""
    worst = {}
    for figure, choose in (("psnr", min), ("psnr_heart", min), ("dice_mean", min), ("lv_ef_error", max)):
        known = {
            group: found[figure]
            for group, found in groups.items()
            if group != "unknown" and is_known(found.get(figure))
        }
        if known:
            group = choose(known, key=known.__getitem__)
            worst[figure] = {"group": group, "value": known[group]}
    return worst


def summarize(rows: Rows) -> dict[str, Any]:
    """What summary.json says of the reported model's hearts; empty where none was judged.

    Returns:
        {"dice", "dice_original", "bland_altman", "bland_altman_original", "groups", "worst_group"}.
    """
    hearts = judged(rows)
    if not hearts:
        return {}
    return {
        "dice": dice_table(hearts, ""),
        "dice_original": dice_table(hearts, "_original"),
        "bland_altman": agreement(hearts, ""),
        "bland_altman_original": agreement(hearts, "_original"),
        "groups": by_group(hearts),
        "worst_group": worst_group(by_group(hearts)),
    }


def tables(hearts: Mapping[str, Any], rows: Rows) -> list[tuple[list[str], list[list[str]]]]:
    """Dice and distances, volumes, diagnoses: (headings, rows) each.

    Args:
        hearts: as `summarize` gives them.
        rows: of the same patients.
    """

    def text(value: float, decimals: int = 3) -> str:
        return "–" if value != value else f"{value:.{decimals}f}"

    overlap = []
    for place in (f"{name}_{phase}" for phase in KEY_FRAMES for name in STRUCTURES):
        agreed = [text(hearts[kind][place]) for kind in ("dice", "dice_original")]
        apart = [text(finite_mean(row.get(f"hd95_{place}{s}") for row in rows), 1) for s in ("", "_original")]
        overlap.append([place.replace("_", " at "), *agreed, *apart])
    volumes = []
    for key, name in MEASURED.items():
        cells = [name]
        for kind in ("bland_altman", "bland_altman_original"):
            found = hearts[kind][key]
            cells.append(f"{text(found['bias'], 1)} ({text(found['low'], 1)} to {text(found['high'], 1)})")
        volumes.append([*cells, str(hearts["bland_altman"][key]["n"])])

    def marked(group: str, key: str, decimals: int) -> str:
        worst = hearts["worst_group"].get(key, {}).get("group") == group and len(hearts["groups"]) > 1
        return text(hearts["groups"][group][key], decimals) + (" (worst)" if worst else "")

    figures = {"psnr": 2, "psnr_heart": 2, "dice_mean": 3, "lv_ef_error": 1}
    groups = [
        [group, str(found["n"]), *(marked(group, key, decimals) for key, decimals in figures.items())]
        for group, found in hearts["groups"].items()
    ]
    return [
        (["", "Dice", "Dice, original", "HD95 (mm)", "HD95, original (mm)"], overlap),
        (["", "bias (limits)", "bias (limits), original", "n"], volumes),
        (["group", "n", "PSNR (dB)", "heart PSNR (dB)", "Dice", "LV EF error (%)"], groups),
    ]
