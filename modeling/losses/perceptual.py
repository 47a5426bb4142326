"""Perceptual: x̂ looks to the segmenter's encoder like x, at every scale, at ED and ES.

Features are normalised to unit length at each place, as LPIPS does with those of a classifier of photographs; here they
are a segmenter's of hearts, which needs no download. Its weights' gradients are off.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, eq. 1 with w = 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.heart.phases import at_phases
from modeling.prediction import NEEDS_SEGMENTER, Prediction, have
from utils.config.ranges import Count, NotNegative
from utils.types import Batch


@dataclass
class Options:
    """The term waits `warmup_steps`, until a segmenter that trains beside it has learnt to see."""

    weight: NotNegative = 0.1
    warmup_steps: Count = 0


@dataclass
class Perceptual:
    """A mean over key frames drawn from tokens alone; zero on identity."""

    weight: float
    warmup_steps: int
    needs = ("decoder", "segmenter", "key_frames")

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many key frames of one-step samples are no padding; none during the warm-up."""
        return self.counted(batch, one_step, step).sum()

    def counted(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """Which key frames count, (B, D, 2) bool."""
        slices = batch.there() & one_step[:, None] & (step >= self.warmup_steps)
        return slices[..., None].expand(-1, -1, 2)

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over key frames of one-step samples that are no padding, and their count."""
        judge = have(prediction.judge, NEEDS_SEGMENTER)
        counted = self.counted(batch, prediction.one_step, prediction.step)
        if not counted.any():
            return prediction.image.new_zeros(()), counted.sum()
        with torch.no_grad():
            originals = judge.segment(at_phases(prediction.image, batch.key_frames)).pyramid
        levels = zip(judge.seen.pyramid, originals, strict=True)
        distance = torch.stack([apart(ours, theirs) for ours, theirs in levels]).mean(0)  # (B, D, 2)
        return distance[counted].sum(), counted.sum()


def apart(ours: Tensor, theirs: Tensor) -> Tensor:  # (..., C, h, w) each
    """Mean squared distance of unit features, (...)."""
    ours, theirs = (F.normalize(x.float(), dim=-3, eps=1e-6) for x in (ours, theirs))
    return (ours - theirs).square().sum(-3).mean((-2, -1))


def build(options: Options) -> Perceptual:
    """Build the term."""
    return Perceptual(options.weight, options.warmup_steps)
