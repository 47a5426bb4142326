"""What one judge makes of a patient's heart: the original's and the reconstruction's, held against the ground truth.

Nothing here is seen by encoder or decoder. Axes: S side of the model grid, D slices, T phases, M labelled key frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from data import preprocess
from data.case import CineCase
from data.scoring import Reference
from utils.clinical import FUNCTION, KEY_FRAMES, STRUCTURES, distances, function, overlaps, phase_error_percent

Judge = Callable[[np.ndarray], np.ndarray]  # (N, S, S) float in [0, 1] -> (N, S, S) uint8 labels

JUDGED = ("", "_original")  # of the reconstruction, of the original


def labelled_phases(case: CineCase) -> dict[str, int]:
    """The key frames that have a ground truth: ED, ES -> zero-based phase."""
    known = zip(KEY_FRAMES, (case.ed, case.es), strict=True)
    return {name: phase for name, phase in known if phase is not None and phase in case.masks}


def segment(judge: Judge, reference: Reference, grid: np.ndarray) -> dict[str, np.ndarray]:
    """The judge's labels at the labelled key frames of (S, S, D, T), as native pixels (h, w, D) inside the field."""
    found = {}
    for name, phase in labelled_phases(reference.case).items():
        frames = np.clip(grid[..., phase].transpose(2, 0, 1), 0, 1)
        native = preprocess.invert(judge(np.ascontiguousarray(frames)), reference.prepared.geometry, order=0)
        found[name] = native[..., reference.box[0], reference.box[1]].transpose(1, 2, 0)
    return found


def phase_errors(judge: Judge, reference: Reference, grid: np.ndarray) -> dict[str, float]:
    """How far the phases of largest and smallest segmented LV lie from ED and ES, `ed_phase_error` and `es_...`, in %.

    NaN where there are fewer than three phases, ED or ES is not known, or the judge finds no LV.
    """
    phases = grid.shape[3]
    frames = np.clip(grid.transpose(3, 2, 0, 1), 0, 1)  # (T, D, S, S)
    lv = np.zeros(phases)
    if phases > 2:
        lv = np.array([(judge(np.ascontiguousarray(stack)) == STRUCTURES["LV"]).sum() for stack in frames])
    ends = {"ed": (int(lv.argmax()), reference.case.ed), "es": (int(lv.argmin()), reference.case.es)}
    return {
        f"{name}_phase_error": math.nan if truth is None or not lv.any() else phase_error_percent(found, truth, phases)
        for name, (found, truth) in ends.items()
    }


def truth_in_field(reference: Reference) -> dict[str, np.ndarray]:
    """The ground truth inside the field, ED and ES as far as known -> (h, w, D)."""
    return {name: reference.case.masks[t][reference.box] for name, t in labelled_phases(reference.case).items()}


def score_heart(judge: Judge, reference: Reference, grid: np.ndarray) -> dict[str, Any]:
    """All heart figures of one patient's reconstruction (S, S, D, T).

    Returns:
        dice_*, dice_mean, hd95_*, volumes, lv_ef_error and rv_ef_error in points of EF, and ed_phase_error and
        es_phase_error in % of the cycle. Empty for a patient without labels.
    """
    truth, case = truth_in_field(reference), reference.case
    if not truth:
        return {}
    whole, found = true_function(case), segment(judge, reference, grid)
    measured = function(found, case.spacing_mm)
    errors = {f"{side}_ef_error": abs(measured[f"{side}_ef"] - whole[f"{side}_ef"]) for side in ("lv", "rv")}
    errors |= phase_errors(judge, reference, grid)
    return {**overlaps(truth, found), **distances(truth, found, case.spacing_mm), **measured, **errors}


def score_original(judge: Judge, reference: Reference) -> dict[str, Any]:
    """What a reconstruction's heart figures stand beside, the same for every model of one field.

    Returns:
        The figures of the original by the same judge, with `_original`, and the volumes of the whole ground truth, with
        `_truth`. Empty for a patient without labels.
    """
    found = score_heart(judge, reference, reference.prepared.image[0])
    whole = true_function(reference.case) if found else {}
    return {f"{key}_original": value for key, value in found.items()} | {
        f"{key}_truth": value for key, value in whole.items()
    }


def true_function(case: CineCase) -> dict[str, float]:
    """Volumes and EF of the whole ground truth."""
    return function({name: case.masks[t] for name, t in labelled_phases(case).items()}, case.spacing_mm)


def overlap_only(judge: Judge, reference: Reference, grid: np.ndarray) -> dict[str, float]:
    """The Dice figures of a baseline's reconstruction; empty for a patient without labels."""
    truth = truth_in_field(reference)
    return overlaps(truth, segment(judge, reference, grid)) if truth else {}


def columns() -> list[str]:
    """All keys of `score_heart`, in the order of a table."""
    keys = [f"{kind}_{s}_{p}" for kind in ("dice", "hd95") for p in KEY_FRAMES for s in ("RV", "MYO", "LV")]
    keys = ["dice_mean", *keys, *FUNCTION, *(f"{name}_error" for name in ("lv_ef", "rv_ef", "ed_phase", "es_phase"))]
    return [*(f"{key}{suffix}" for suffix in JUDGED for key in keys), *(f"{key}_truth" for key in FUNCTION)]
