"""Segmentation: cross-entropy + (1 - Dice), or + (1 - IoU), of the segmenter on frames with labels.

Two parts. On originals the term trains the segmenter. On the reconstruction the same weights, with their gradients off,
judge what the decoder drew: the gradient reaches the decoder through x̂ alone, after a warm-up.

Source: Isensee et al., nnU-Net, 2021 (Dice + cross-entropy); Milletari et al., V-Net, 2016 (soft Dice).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.prediction import Prediction
from utils.types import Batch

SMOOTH = 1.0  # pixels: a structure that is neither there nor drawn costs nothing


@dataclass
class Options:
    """The two parts.

    Args:
        weight: of the term.
        overlap: `dice` or `iou`.
        original: weight of the segmenter on originals; 0 leaves the part out.
        reconstruction: weight of the segmenter on the reconstruction; 0 leaves the part out.
        warmup_steps: the reconstruction is judged from this optimizer step on.
    """

    weight: float = 1.0
    overlap: str = "dice"
    original: float = 1.0
    reconstruction: float = 0.0
    warmup_steps: int = 0


@dataclass
class Segmentation:
    """A mean over labelled key frames, where a reconstruction that saw noise counts zero; zero for right logits."""

    options: Options

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    @property
    def needs(self) -> tuple[str, ...]:
        """Of the recipe; the part on the reconstruction alone needs one."""
        decoder = ("decoder",) if self.options.reconstruction else ()
        return ("segmenter", "key_frames", "labels", *decoder)

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over labelled key frames, and their count."""
        options = self.options
        labels, labelled = batch.key_labels()
        field = batch.field.permute(0, 3, 1, 2).unsqueeze(2).expand_as(labels)
        total = torch.zeros((), device=labels.device)
        if options.original:
            logits = prediction.key_logits()
            total = total + options.original * frame_losses(logits, labels, field, options.overlap)[labelled].sum()
        if options.reconstruction and prediction.step >= options.warmup_steps:
            logits = prediction.key_logits_of_reconstruction()
            chosen = labelled & prediction.one_step[:, None, None]  # judged where users judge: drawn from tokens alone
            total = total + options.reconstruction * frame_losses(logits, labels, field, options.overlap)[chosen].sum()
        return total, labelled.sum()


def frame_losses(logits: Tensor, labels: Tensor, field: Tensor, overlap: str) -> Tensor:
    """Cross-entropy + 1 - overlap of each frame, a mean over the field and over RV, MYO and LV.

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


def build(options: Options) -> Segmentation:
    """Build the term.

    Raises:
        ValueError: for an overlap that is neither, or when both parts are left out.
    """
    if options.overlap not in ("dice", "iou"):
        raise ValueError(f"losses.segmentation.overlap is {options.overlap!r}: expected dice or iou")
    if min(options.original, options.reconstruction) < 0 or options.original + options.reconstruction == 0:
        raise ValueError(
            f"losses.segmentation: original {options.original} and reconstruction {options.reconstruction}: expected "
            "weights of 0 or more, not both 0"
        )
    return Segmentation(options)
