"""Shared code of the two segmentation losses: the loss of a segmented frame against its labels.

Source: Isensee et al., nnU-Net, 2021 (Dice + cross-entropy); Milletari et al., V-Net, 2016 (soft Dice).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.types import Batch

Overlap = Literal["dice", "iou"]
SMOOTH = 1.0  # pixels; a structure that is neither in the labels nor in the prediction has loss 0


def sum_over_frames(logits: Tensor, batch: Batch, counted: Tensor, overlap: Overlap) -> Tensor:
    """Return the sum of `frame_losses` over key frames.

    Args:
        logits: (B, D, 2, 4, H, W) at ED and ES.
        batch: the samples, with their labels.
        counted: (B, D, 2) bool, True for counted key frames.
        overlap: `dice` or `iou`.
    """
    labels, _ = batch.key_labels()
    field = batch.field.unsqueeze(2).expand_as(labels)
    return frame_losses(logits, labels, field, overlap)[counted].sum()


def frame_losses(logits: Tensor, labels: Tensor, field: Tensor, overlap: Overlap) -> Tensor:
    """Return cross-entropy (mean over the field) + 1 - overlap (mean over RV, MYO and LV) of each frame.

    Args:
        logits: (B, D, 2, 4, H, W).
        labels: (B, D, 2, H, W) int64.
        field: (B, D, 2, H, W) bool.
        overlap: `dice` or `iou`.

    Returns:
        (B, D, 2).
    """
    weight = field.to(logits)
    cross = F.cross_entropy(logits.flatten(0, 2), labels.flatten(0, 2), reduction="none").view_as(weight)
    cross = (cross * weight).sum((3, 4)) / weight.sum((3, 4)).clamp(min=1)
    p = logits.softmax(3)[:, :, :, 1:] * weight.unsqueeze(3)
    truth = torch.stack([labels == label for label in range(1, logits.shape[3])], dim=3) * weight.unsqueeze(3)
    both, sizes = (p * truth).sum((4, 5)), p.sum((4, 5)) + truth.sum((4, 5))
    if overlap == "dice":
        agreement = (2 * both + SMOOTH) / (sizes + SMOOTH)
    else:
        agreement = (both + SMOOTH) / (sizes - both + SMOOTH)
    return cross + (1 - agreement).mean(3)
