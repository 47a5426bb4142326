"""The heart of a patient's reconstruction, segmented by a reference segmenter and compared with the ground truth.

The input of the segmenter is whole native frames: the reconstruction inside the model's field, the original outside.
It therefore works for any field. No result of this module reaches an encoder or a decoder.

Axes: H height, W width, h and w those of the field, S side of the model grid, D slices, T phases.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from data.case import CineCase
from data.scoring.images import Reference, to_native
from data.window import normalize, real_values
from utils.clinical import FUNCTION, KEY_FRAMES, STRUCTURES, distances, function, overlaps, phase_error_percent

SEGMENTED = ("", "_original")  # keys of the reconstruction and of the original


class ReferenceSegmenter(Protocol):
    """A network that segments originals and reconstructions for a report.

    Attributes:
        name: for the report.
        every_phase: whether the network is fast enough to segment all phases, for the phase errors of ED and ES.
    """

    name: str
    every_phase: bool

    def labels(self, frames: np.ndarray, reference: Reference) -> np.ndarray:
        """Labels of native frames of one patient.

        Args:
            frames: (D, H, W) float32 in [0, 1], one phase.
            reference: of the patient.

        Returns:
            (D, H, W) uint8: 0 background, 1 RV, 2 MYO, 3 LV.
        """


def whole_frames(reference: Reference, native: np.ndarray, phase: int) -> np.ndarray:
    """One phase of native pixels (D, T, h, w) inside the field as whole frames (D, H, W), the original outside."""
    case, (rows, columns) = reference.case, reference.box
    real = real_values(case.cine[..., phase], case.slope, case.intercept).transpose(2, 0, 1)
    frames = normalize(real, reference.prepared.window)
    frames[:, rows, columns] = np.clip(native[:, phase], 0, 1)
    return frames


def field_labels(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray, phase: int) -> np.ndarray:
    """Labels of one phase of native pixels (D, T, h, w) inside the field, (h, w, D)."""
    labels = segmenter.labels(whole_frames(reference, native, phase), reference)
    return labels[:, reference.box[0], reference.box[1]].transpose(1, 2, 0)


def labelled_phases(case: CineCase) -> dict[str, int]:
    """The key frames with a ground truth: ED, ES -> zero-based phase."""
    known = zip(KEY_FRAMES, (case.ed, case.es), strict=True)
    return {name: phase for name, phase in known if phase is not None and phase in case.masks}


def segment(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, np.ndarray]:
    """Labels at the labelled key frames of native pixels (D, T, h, w) inside the field, (h, w, D) each."""
    phases = labelled_phases(reference.case)
    return {name: field_labels(segmenter, reference, native, phase) for name, phase in phases.items()}


def phase_errors(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, float]:
    """Distances of the phases of largest and smallest segmented LV in native pixels (D, T, h, w) from ED and ES.

    Returns:
        `ed_phase_error` and `es_phase_error` in % of the cycle; NaN for fewer than three phases, an unknown ED or ES,
        no segmented LV, or a segmenter that is too slow for all phases.
    """
    phases = native.shape[1]
    lv = np.zeros(phases)
    if phases > 2 and segmenter.every_phase:
        labels = (field_labels(segmenter, reference, native, phase) for phase in range(phases))
        lv = np.array([(label == STRUCTURES["LV"]).sum() for label in labels])
    ends = {"ed": (int(lv.argmax()), reference.case.ed), "es": (int(lv.argmin()), reference.case.es)}
    return {
        f"{name}_phase_error": math.nan if truth is None or not lv.any() else phase_error_percent(phase, truth, phases)
        for name, (phase, truth) in ends.items()
    }


def truth_in_field(reference: Reference) -> dict[str, np.ndarray]:
    """The ground truth inside the field: ED and ES, where labelled -> (h, w, D)."""
    return {name: reference.case.masks[t][reference.box] for name, t in labelled_phases(reference.case).items()}


def score_key_frames(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, Any]:
    """The heart metrics of ED and ES of native pixels (D, T, h, w) inside the field.

    Returns:
        dice_*, dice_mean, hd95_*, volumes, lv_ef_error and rv_ef_error in points of EF. Empty for a patient without
        labels.
    """
    truth, case = truth_in_field(reference), reference.case
    if not truth:
        return {}
    whole, labels = true_function(case), segment(segmenter, reference, native)
    measured = function(labels, case.spacing_mm)
    errors = {f"{side}_ef_error": abs(measured[f"{side}_ef"] - whole[f"{side}_ef"]) for side in ("lv", "rv")}
    return {**overlaps(truth, labels), **distances(truth, labels, case.spacing_mm), **measured, **errors}


def score_heart(segmenter: ReferenceSegmenter, reference: Reference, grid: np.ndarray) -> dict[str, Any]:
    """All heart metrics of one patient's reconstruction (S, S, D, T).

    Returns:
        Those of `score_key_frames`, and ed_phase_error and es_phase_error in % of the cycle. Empty for a patient
        without labels.
    """
    native = to_native(reference, grid)
    found = score_key_frames(segmenter, reference, native)
    return {**found, **phase_errors(segmenter, reference, native)} if found else {}


def score_original(segmenter: ReferenceSegmenter, reference: Reference) -> dict[str, Any]:
    """The values with which heart metrics of a reconstruction are compared; equal for all models of one field.

    Returns:
        The metrics of the original by the same segmenter, with the suffix `_original`, and the volumes of the whole
        ground truth, with the suffix `_truth`. Empty for a patient without labels.
    """
    original = score_heart(segmenter, reference, reference.prepared.image[0])
    whole = true_function(reference.case) if original else {}
    return {f"{key}_original": value for key, value in original.items()} | {
        f"{key}_truth": value for key, value in whole.items()
    }


def true_function(case: CineCase) -> dict[str, float]:
    """Volumes and EF of the whole ground truth."""
    return function({name: case.masks[t] for name, t in labelled_phases(case).items()}, case.spacing_mm)


def overlap_only(segmenter: ReferenceSegmenter, reference: Reference, grid: np.ndarray) -> dict[str, float]:
    """The Dice of a baseline's reconstruction; empty for a patient without labels."""
    truth = truth_in_field(reference)
    return overlaps(truth, segment(segmenter, reference, to_native(reference, grid))) if truth else {}


def columns() -> list[str]:
    """All keys of `score_heart`, in the order of a table."""
    keys = [f"{kind}_{s}_{p}" for kind in ("dice", "hd95") for p in KEY_FRAMES for s in ("RV", "MYO", "LV")]
    keys = ["dice_mean", *keys, *FUNCTION, *(f"{name}_error" for name in ("lv_ef", "rv_ef", "ed_phase", "es_phase"))]
    return [*(f"{key}{suffix}" for suffix in SEGMENTED for key in keys), *(f"{key}_truth" for key in FUNCTION)]
