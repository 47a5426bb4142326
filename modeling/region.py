"""Where in a frame something counts: the heart's neighbourhood, and how much more it weighs."""

import torch.nn.functional as F
from torch import Tensor

from utils.types import Batch


def near(mask: Tensor, margin: int) -> Tensor:  # (..., H, W) bool
    """Pixels no more than `margin` rows and columns from a mask, shaped like it."""
    grown = F.max_pool2d(mask.flatten(0, -3).unsqueeze(1).float(), 2 * margin + 1, stride=1, padding=margin)
    return grown.view(mask.shape) > 0


def heart_weight(batch: Batch, weight: float, margin: int) -> Tensor:
    """Weights of pixels, higher near the heart, with mean 1 over a slice's field, (B, H, W, D).

    The heart is the union of the labels of a slice's phases; a slice without labels has weight 1 everywhere, and so
    an even error costs the same with any weight.

    Args:
        batch: whose labels and field count.
        weight: of a pixel near the heart, against 1 elsewhere.
        margin: pixels around the labels that belong to it.
    """
    heart = near((batch.mask > 0).any(4).permute(0, 3, 1, 2), margin).permute(0, 2, 3, 1)  # (B, H, W, D)
    raw = (1 + (weight - 1) * heart) * batch.field
    mean = raw.sum((1, 2), keepdim=True) / batch.field.sum((1, 2), keepdim=True).clamp(min=1)
    return raw / mean.clamp(min=1e-6)


def weight_of(batch: Batch, heart: float, margin: int) -> Tensor | None:
    """`heart_weight`, or None where the heart weighs no more than the rest."""
    return None if heart == 1 else heart_weight(batch, heart, margin)
