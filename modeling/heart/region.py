"""Region near the heart, and weights of its pixels in a loss."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.types import Batch


def near(mask: Tensor, margin_mm: float, batch: Batch, rows: Tensor | None = None) -> Tensor:
    """Return the pixels within a margin of a mask, in each plane, from pixel centre to pixel centre.

    Args:
        mask: (B, ..., H, W) bool.
        margin_mm: distance in the plane.
        batch: the samples, for their spacing.
        rows: indices of the samples of the mask in the batch; None for all.

    Returns:
        bool, shaped like `mask`.
    """
    spacing = (batch.spacing_mm if rows is None else batch.spacing_mm[rows]).to(mask.device)
    reach = min(math.ceil(margin_mm / batch.finest_mm), max(mask.shape[-2:]))
    offsets = torch.arange(-reach, reach + 1, device=mask.device)
    squared = (offsets * spacing[:, :1]).square()[:, :, None] + (offsets * spacing[:, 1:2]).square()[:, None]
    disc = (squared <= margin_mm**2).float().unsqueeze(1)  # (B, 1, 2 * reach + 1, 2 * reach + 1)
    planes = mask.flatten(1, -3).transpose(0, 1).float()  # (..., B, H, W)
    grown = F.conv2d(planes, disc, padding=reach, groups=len(mask))
    return (grown > 0.5).transpose(0, 1).reshape(mask.shape)


def heart_weight(batch: Batch, weight: float, margin_mm: float) -> Tensor:
    """Return weights of pixels, higher near the heart, with mean 1 over the field of a slice, (B, D, H, W).

    The heart is the union of the labels of a slice's phases; a slice without labels has weight 1 everywhere. So
    a constant error gives the same loss for every weight.

    Args:
        batch: the samples, for labels and field.
        weight: weight of a pixel near the heart relative to other pixels.
        margin_mm: largest distance in mm of such a pixel from the labels.
    """
    heart = near((batch.mask > 0).any(2), margin_mm, batch)  # (B, D, H, W)
    raw = (1 + (weight - 1) * heart) * batch.field
    mean = raw.sum((2, 3), keepdim=True) / batch.field.sum((2, 3), keepdim=True).clamp(min=1)
    return raw / mean.clamp(min=1e-6)


def weight_of(batch: Batch, heart: float, margin_mm: float) -> Tensor | None:
    """Return `heart_weight`, or None if all weights are 1."""
    return None if heart == 1 else heart_weight(batch, heart, margin_mm)
