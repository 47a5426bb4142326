"""Where in a frame something counts: the heart's neighbourhood, and how much more it weighs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.types import Batch


def near(mask: Tensor, margin_mm: float, batch: Batch, rows: Tensor | None = None) -> Tensor:
    """Pixels whose centre lies no more than a margin from that of a pixel of a mask, within each plane.

    Args:
        mask: (B, ..., H, W) bool.
        margin_mm: distance in the plane.
        batch: of the same samples; its spacing counts.
        rows: the samples of the batch that the mask has; all when not given.

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
    """Weights of pixels, higher near the heart, with mean 1 over a slice's field, (B, D, H, W).

    The heart is the union of the labels of a slice's phases; a slice without labels has weight 1 everywhere, and so
    an even error costs the same with any weight.

    Args:
        batch: whose labels and field count.
        weight: of a pixel near the heart, against 1 elsewhere.
        margin_mm: distance from the labels up to which a pixel belongs to it.
    """
    heart = near((batch.mask > 0).any(2), margin_mm, batch)  # (B, D, H, W)
    raw = (1 + (weight - 1) * heart) * batch.field
    mean = raw.sum((2, 3), keepdim=True) / batch.field.sum((2, 3), keepdim=True).clamp(min=1)
    return raw / mean.clamp(min=1e-6)


def weight_of(batch: Batch, heart: float, margin_mm: float) -> Tensor | None:
    """`heart_weight`, or None where the heart weighs no more than the rest."""
    return None if heart == 1 else heart_weight(batch, heart, margin_mm)
