"""Heart metrics of a reconstruction, segmented by a reference segmenter and compared with the ground truth.

The input of the segmenter is whole native frames: the reconstruction inside the model's field, the original outside.
So the same segmenter works for every field. No result of this module is used by an encoder or a decoder.

Axes: H height, W width, h and w height and width of the field, D slices, T phases.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from data.case import CineCase
from data.scoring.images import Reference, to_native
from data.window import normalize, real_values
from utils.clinical import (
    DISTANCES,
    FUNCTION,
    KEY_FRAMES,
    Masks,
    distances,
    function,
    overlaps,
    phase_error_percent,
)
from utils.labels import STRUCTURES

SEGMENTED = ("", "_original")  # suffixes of the metrics of the reconstruction and of the original


class ReferenceSegmenter(Protocol):
    """A network that segments originals and reconstructions for a report.

    Attributes:
        name: name in the report.
        every_phase: whether the network segments all phases, which the phase errors of ED and ES need.
    """

    name: str
    every_phase: bool

    def labels(self, frames: np.ndarray, reference: Reference) -> np.ndarray:
        """Segment native frames of one patient.

        Args:
            frames: (D, H, W) float32 in [0, 1], one phase.
            reference: the original of the patient.

        Returns:
            (D, H, W) uint8: 0 background, 1 RV, 2 MYO, 3 LV.
        """


def whole_frames(reference: Reference, native: np.ndarray, phase: int) -> np.ndarray:
    """Return one phase of a reconstruction as whole native frames, with the original outside the field.

    Args:
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.
        phase: zero-based phase.

    Returns:
        (D, H, W) float32 in [0, 1].
    """
    case, (rows, columns) = reference.case, reference.box
    real = real_values(case.cine[..., phase], case.slope, case.intercept).transpose(2, 0, 1)
    frames = normalize(real, reference.prepared.window)
    frames[:, rows, columns] = np.clip(native[:, phase], 0, 1)
    return frames


def field_labels(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray, phase: int) -> np.ndarray:
    """Segment one phase of a reconstruction inside the field.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.
        phase: zero-based phase.

    Returns:
        (h, w, D) uint8 labels.
    """
    labels = segmenter.labels(whole_frames(reference, native, phase), reference)
    return labels[:, reference.box[0], reference.box[1]].transpose(1, 2, 0)


def labelled_phases(case: CineCase) -> dict[str, int]:
    """Return the phases of ED and ES that have a ground truth, e.g. {"ED": 0, "ES": 9}."""
    phases = zip(KEY_FRAMES, (case.ed, case.es), strict=True)
    return {name: phase for name, phase in phases if phase is not None and phase in case.masks}


def segment(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, np.ndarray]:
    """Segment the labelled key frames of a reconstruction inside the field.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.

    Returns:
        ED, ES -> (h, w, D) uint8 labels.
    """
    phases = labelled_phases(reference.case)
    return {name: field_labels(segmenter, reference, native, phase) for name, phase in phases.items()}


def phase_errors(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, float]:
    """Return the distances of the phases of largest and smallest segmented LV from ED and ES.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.

    Returns:
        `ed_phase_error` and `es_phase_error` in % of the cycle; NaN for fewer than three phases, an unknown ED or ES,
        no segmented LV, or a segmenter without `every_phase`.
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
    """Return the ground truth inside the field, ED, ES -> (h, w, D) uint8, for labelled phases only."""
    return {name: reference.case.masks[t][reference.box] for name, t in labelled_phases(reference.case).items()}


def score_labels(reference: Reference, labels: Masks) -> dict[str, Any]:
    """Compare the segmented key frames of one patient with the ground truth.

    Args:
        reference: the original of the patient.
        labels: as `segment` returns them.

    Returns:
        dice_*, dice_mean, hd95_*, assd_*, volumes, lv_ef_error and rv_ef_error in points of EF. Empty for a patient
        without labels.
    """
    truth, case = truth_in_field(reference), reference.case
    if not truth:
        return {}
    whole, measured = true_function(case), function(labels, case.spacing_mm)
    errors = {f"{side}_ef_error": abs(measured[f"{side}_ef"] - whole[f"{side}_ef"]) for side in ("lv", "rv")}
    return {**overlaps(truth, labels), **distances(truth, labels, case.spacing_mm), **measured, **errors}


def score_against_original(reference: Reference, original: Masks, labels: Masks) -> dict[str, float]:
    """Compare the segmented key frames of a reconstruction with those of the original, by the same segmenter.

    Args:
        reference: the original of the patient.
        original: as `segment` returns them for the original.
        labels: as `segment` returns them for the reconstruction.

    Returns:
        dice_*, dice_mean, hd95_* and assd_*, each with the suffix `_to_original`.
    """
    values = {**overlaps(original, labels), **distances(original, labels, reference.case.spacing_mm)}
    return {f"{key}_to_original": value for key, value in values.items()}


def score_key_frames(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, Any]:
    """Compute the heart metrics of ED and ES of one patient's reconstruction; see `score_labels`.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.
    """
    return score_labels(reference, segment(segmenter, reference, native)) if reference.case.masks else {}


def score_heart(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, Any]:
    """Compute all heart metrics of one patient's reconstruction.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.

    Returns:
        Those of `score_key_frames`, and ed_phase_error and es_phase_error in % of the cycle. Empty for a patient
        without labels.
    """
    metrics = score_key_frames(segmenter, reference, native)
    return metrics | phase_errors(segmenter, reference, native) if metrics else {}


def score_original(segmenter: ReferenceSegmenter, reference: Reference) -> dict[str, Any]:
    """Compute the heart metrics of the original and of the ground truth; they are equal for all models of one field.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.

    Returns:
        The metrics of the original by the same segmenter, with the suffix `_original`, and the volumes of the whole
        ground truth, with the suffix `_truth`. Empty for a patient without labels.
    """
    original = score_heart(segmenter, reference, to_native(reference, reference.prepared.image[0]))
    whole = true_function(reference.case) if original else {}
    return {f"{key}_original": value for key, value in original.items()} | {
        f"{key}_truth": value for key, value in whole.items()
    }


def true_function(case: CineCase) -> dict[str, float]:
    """Return volumes in mL and EF in % of the whole ground truth."""
    return function({name: case.masks[t] for name, t in labelled_phases(case).items()}, case.spacing_mm)


def overlap_only(segmenter: ReferenceSegmenter, reference: Reference, native: np.ndarray) -> dict[str, float]:
    """Compute only the Dice of a reconstruction, for baselines.

    Args:
        segmenter: the reference segmenter.
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.

    Returns:
        dice_* and dice_mean; empty for a patient without labels.
    """
    truth = truth_in_field(reference)
    return overlaps(truth, segment(segmenter, reference, native)) if truth else {}


def columns() -> list[str]:
    """Return all keys of `score_heart` and `score_original`, in the order of per_patient.csv."""
    keys = [f"{kind}_{s}_{p}" for kind in ("dice", *DISTANCES) for p in KEY_FRAMES for s in ("RV", "MYO", "LV")]
    keys = ["dice_mean", *keys, *FUNCTION, *(f"{name}_error" for name in ("lv_ef", "rv_ef", "ed_phase", "es_phase"))]
    return [*(f"{key}{suffix}" for suffix in SEGMENTED for key in keys), *(f"{key}_truth" for key in FUNCTION)]
