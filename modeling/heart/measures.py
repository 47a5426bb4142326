"""Volumes, ejection fraction and wall thickness from soft masks, with gradients to the logits.

A soft mask leaks: a hundredth of softmax tail over a slice is several mL. So logits are sharpened, and only the
neighbourhood of a known heart counts.

Axes: B batch, D slices, M phases looked at (ED and ES, or all), S = 3 structures RV, MYO, LV, H height, W width.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.heart.region import near
from modeling.heart.segmenter import NUM_CLASSES
from utils.types import Batch

RV, MYO, LV = range(3)  # places along S
STRUCTURES = 3
SEGMENTS = 6  # of the wall in a slice
EMPTY_MM2 = 0.01  # keeps the slope of a radius finite where its area is nothing


class Measured(NamedTuple):
    """Soft masks of the reconstruction and masks of the truth at ED and ES, held to the same pixels.

    Args:
        masks: (B, D, 2, S, H, W) in [0, 1].
        truth: likewise, 0 and 1.
        labelled: (B, D, 2) bool, where the ground truth is known.
    """

    masks: Tensor
    truth: Tensor
    labelled: Tensor


def measure(logits: Tensor, batch: Batch, sharpness: float, margin_mm: float) -> Measured:
    """Soft masks of key frames, in the neighbourhood of the true heart.

    Args:
        logits: (B, D, 2, 4, H, W) of the reconstruction at ED and ES.
        batch: holds the truth.
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
    """Which samples are stacks of several slices with a truth at ED and ES in each, (B,) bool.

    Args:
        batch: padded slices, which lie in no field, need no truth.
        labelled: (B, D, 2) bool.
    """
    valid = batch.valid()  # (B, D)
    return (valid.sum(1) > 1) & (labelled.all(2) | ~valid).all(1)


def ejection_fraction(ml: Tensor, truth_ml: Tensor) -> tuple[Tensor, Tensor]:
    """(EDV - ESV) / EDV of RV and LV, and where it is known.

    A reconstruction's EDV counts for no less than half of the true one, so that a vanishing ventricle does not explode.

    Args:
        ml: (B, 2, S) volumes at ED and ES.
        truth_ml: (B, 2, S) the truth's.

    Returns:
        (B, 2) fractions of RV and LV, and (B, 2) bool where the true EDV is above 0.
    """
    sides = [RV, LV]
    edv, esv, true_edv = ml[:, 0, sides], ml[:, 1, sides], truth_ml[:, 0, sides]
    known = true_edv > 0
    floor = torch.where(known, 0.5 * true_edv, torch.ones_like(true_edv))
    return (edv - esv) / torch.maximum(edv, floor), known


def wall_thickness_mm(masks: Tensor, truth: Tensor, spacing_mm: Tensor) -> tuple[Tensor, Tensor]:
    """Thickness of the wall's segments, by areas: in a sector, the outer radius of LV and MYO less that of the LV.

    Args:
        masks: (B, D, S, H, W) in [0, 1].
        truth: (B, D, S, H, W) 0 and 1; the sectors meet in the true LV's centroid, for truth and reconstruction alike.
        spacing_mm: (B, 3) along H, W and D.

    Returns:
        (B, D, SEGMENTS) in mm, and (B, D) bool where the true wall surrounds the LV.
    """
    batch, depth, _, height, width = truth.shape
    lv = truth[:, :, LV]
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
    circle = SEGMENTS * torch.stack([mm2[:, :, LV], mm2[:, :, LV] + mm2[:, :, MYO]])  # of a segment's inner, outer arc
    inner, outer = (circle / math.pi + EMPTY_MM2).sqrt()
    return outer - inner, (areas(truth)[:, :, [MYO, LV]] > 0).all(3).all(2)
