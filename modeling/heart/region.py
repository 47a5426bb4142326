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
    """Weights of pixels, higher near the heart, with mean 1 over a slice's field, (B, H, W, D).

    The heart is the union of the labels of a slice's phases; a slice without labels has weight 1 everywhere, and so
    an even error costs the same with any weight.

    Args:
        batch: whose labels and field count.
        weight: of a pixel near the heart, against 1 elsewhere.
        margin_mm: distance from the labels up to which a pixel belongs to it.
    """
    heart = near((batch.mask > 0).any(4).permute(0, 3, 1, 2), margin_mm, batch).permute(0, 2, 3, 1)  # (B, H, W, D)
    raw = (1 + (weight - 1) * heart) * batch.field
    mean = raw.sum((1, 2), keepdim=True) / batch.field.sum((1, 2), keepdim=True).clamp(min=1)
    return raw / mean.clamp(min=1e-6)


def weight_of(batch: Batch, heart: float, margin_mm: float) -> Tensor | None:
    """`heart_weight`, or None where the heart weighs no more than the rest."""
    return None if heart == 1 else heart_weight(batch, heart, margin_mm)


def pixels_in_field(batch: Batch, chosen: Tensor | None = None) -> Tensor:
    """How many pixels of all phases lie in the field.

    Args:
        batch: the samples.
        chosen: (B,) bool, samples that count; all when not given.
    """
    pixels = batch.field.sum((1, 2, 3)) * batch.phase.shape[1]
    return pixels.sum() if chosen is None else (pixels * chosen).sum()


def sum_in_field(error: Tensor, field: Tensor, chosen: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Sum of a pixel error over the field.

    Args:
        error: (B, 1, H, W, D, T).
        field: (B, H, W, D) bool.
        chosen: (B,) bool, samples that count; all when not given.
        weight: (B, H, W, D) of mean 1 over a field, as `heart_weight` gives; even when not given.
    """
    counted = field if chosen is None else field & chosen.view(-1, 1, 1, 1)
    factor = counted.to(error) if weight is None else counted * weight.to(error)
    return (error * factor[:, None, ..., None]).sum()
