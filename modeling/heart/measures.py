"""Volumes, ejection fraction and wall thickness from soft masks, with gradients to the logits.

A soft mask is above 0 also far from the heart: a probability of 0.01 over a whole slice adds several mL. So logits are
multiplied by a sharpness, and only pixels near a known heart count.

Axes: B batch, D slices, M phases (ED and ES, or all), S = 3 structures RV, MYO, LV, H height, W width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.heart.region import near
from modeling.heart.segmenter import NUM_CLASSES
from utils.labels import STRUCTURES
from utils.types import Batch

RV_INDEX, MYO_INDEX, LV_INDEX = (label - 1 for label in STRUCTURES.values())  # along S
NUM_STRUCTURES = len(STRUCTURES)
SEGMENTS = 6  # segments of the wall in a slice
EMPTY_MM2 = 0.01  # keeps the gradient of a radius finite at area 0


class Measured(NamedTuple):
    """Soft masks of the reconstruction and masks of the ground truth at ED and ES, in the same pixels.

    Args:
        masks: (B, D, 2, S, H, W) in [0, 1].
        truth: (B, D, 2, S, H, W), 0 and 1.
        labelled: (B, D, 2) bool, True if there is a ground truth.
    """

    masks: Tensor
    truth: Tensor
    labelled: Tensor


def measure(logits: Tensor, batch: Batch, sharpness: float, margin_mm: float) -> Measured:
    """Compute soft masks of key frames near the true heart.

    Args:
        logits: (B, D, 2, 4, H, W) of the reconstruction at ED and ES.
        batch: the samples with their ground truth.
        sharpness: factor on the logits.
        margin_mm: distance from the true heart up to which pixels count.
    """
    labels, labelled = batch.key_labels()
    region = near(labels > 0, margin_mm, batch)
    return Measured(soft_masks(logits, region, sharpness), hard_masks(labels), labelled)


def soft_masks(logits: Tensor, region: Tensor, sharpness: float) -> Tensor:
    """Softmax of sharpened logits, (B, D, M, S, H, W).

    Args:
        logits: (B, D, M, 4, H, W).
        region: (B, D, M, H, W) bool, the pixels that count.
        sharpness: factor on the logits.
    """
    return (sharpness * logits).softmax(3)[:, :, :, 1:] * region.unsqueeze(3)


def hard_masks(labels: Tensor) -> Tensor:  # (B, D, M, H, W)
    """The masks of labels, 0 and 1, (B, D, M, S, H, W) float32."""
    return torch.stack([labels == label for label in range(1, NUM_CLASSES)], dim=3).float()


def slice_volumes_ml(masks: Tensor, spacing_mm: Tensor) -> Tensor:  # (B, D, M, S, H, W), (B, 3)
    """Volumes of RV, MYO and LV in each slice, (B, D, M, S) in mL."""
    return masks.sum((4, 5)) * spacing_mm.prod(1).view(-1, 1, 1, 1) / 1000


def whole_stacks(batch: Batch, labelled: Tensor) -> Tensor:
    """Return which samples are stacks of several slices, each labelled at ED and ES, (B,) bool.

    Args:
        batch: padded slices, which are outside the field, need no ground truth.
        labelled: (B, D, 2) bool.
    """
    valid = batch.valid()  # (B, D)
    return (valid.sum(1) > 1) & (labelled.all(2) | ~valid).all(1)


def ejection_fraction(ml: Tensor, truth_ml: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (EDV - ESV) / EDV of RV and LV, and whether it is defined.

    The EDV of a reconstruction is clamped to at least half of the true EDV, so that the quotient stays bounded.

    Args:
        ml: (B, 2, S) volumes at ED and ES.
        truth_ml: (B, 2, S) volumes of the ground truth.

    Returns:
        (B, 2) fractions of RV and LV, and (B, 2) bool where the true EDV is above 0.
    """
    sides = [RV_INDEX, LV_INDEX]
    edv, esv, true_edv = ml[:, 0, sides], ml[:, 1, sides], truth_ml[:, 0, sides]
    known = true_edv > 0
    floor = torch.where(known, 0.5 * true_edv, torch.ones_like(true_edv))
    return (edv - esv) / torch.maximum(edv, floor), known


def wall_thickness_mm(masks: Tensor, truth: Tensor, spacing_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the wall thickness of segments from areas: in a sector, radius of LV + MYO minus radius of LV.

    Args:
        masks: (B, D, S, H, W) in [0, 1].
        truth: (B, D, S, H, W) 0 and 1; the sectors of truth and reconstruction meet at the centroid of the true LV.
        spacing_mm: (B, 3) along H, W and D.

    Returns:
        (B, D, SEGMENTS) in mm, and (B, D) bool, True if the true wall surrounds the LV.
    """
    batch, depth, _, height, width = truth.shape
    lv = truth[:, :, LV_INDEX]
    total = lv.sum((2, 3)).clamp(min=1)
    rows, columns = torch.arange(height, device=lv.device), torch.arange(width, device=lv.device)
    row = (lv.sum(3) * rows).sum(2) / total  # (B, D)
    column = (lv.sum(2) * columns).sum(2) / total
    down = (rows - row.unsqueeze(2)) * spacing_mm[:, :1, None]  # (B, D, H) mm
    right = (columns - column.unsqueeze(2)) * spacing_mm[:, 1:2, None]
    angle = torch.atan2(down.unsqueeze(3), right.unsqueeze(2)) / (2 * math.pi) + 0.5
    segment = (angle * SEGMENTS).long().clamp(max=SEGMENTS - 1).view(batch, depth, 1, -1)

    def areas(mask: Tensor) -> Tensor:  # (B, D, S, H, W) -> (B, D, S, SEGMENTS) pixels
        empty = mask.new_zeros(*mask.shape[:3], SEGMENTS)
        return empty.scatter_add(3, segment.expand(-1, -1, mask.shape[2], -1), mask.flatten(3))

    mm2 = areas(masks) * spacing_mm[:, :2].prod(1).view(-1, 1, 1, 1)
    inside = mm2[:, :, LV_INDEX]
    circle = SEGMENTS * torch.stack([inside, inside + mm2[:, :, MYO_INDEX]])  # of a segment's inner, outer arc
    inner, outer = (circle / math.pi + EMPTY_MM2).sqrt()
    return outer - inner, (areas(truth)[:, :, [MYO_INDEX, LV_INDEX]] > 0).all(3).all(2)
