"""Perceptual: features of x̂ and of x in the segmenter's encoder, compared at every scale, at ED and ES.

Features are normalised to unit length at each place, as LPIPS does with those of a classifier of photographs; here they
are a segmenter's of hearts, which needs no download. Its weights' gradients are off.

Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, eq. 1 with w = 1.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.heart.phases import at_phases
from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import NotNegative
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """`warmup_steps` lets a segmenter that trains in the same run learn first."""

    weight: NotNegative = 0.1


class Perceptual:
    """A mean over key frames that are decoded from tokens alone; zero on identity."""

    needs = ("decoder", "segmenter", "key_frames")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """How many key frames of one-step samples are no padding."""
        return self.counted(batch, one_step).sum()

    def counted(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Which key frames count, (B, D, 2) bool."""
        return (batch.valid() & one_step[:, None])[..., None].expand(-1, -1, 2)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over key frames of one-step samples that are no padding."""
        segmenter, counted = prediction.fixed_segmenter(), self.counted(batch, prediction.one_step)
        if not counted.any():
            return prediction.image.new_zeros(())
        with torch.no_grad():
            originals = segmenter.segment(at_phases(prediction.image, batch.key_frames)).pyramid
        levels = zip(segmenter.segmented.pyramid, originals, strict=True)
        distance = torch.stack([feature_distance(prediction, target) for prediction, target in levels]).mean(0)
        return distance[counted].sum()  # of (B, D, 2)


def feature_distance(prediction: Tensor, target: Tensor) -> Tensor:  # (..., C, h, w) each
    """Mean squared distance of unit features, (...)."""
    prediction, target = (F.normalize(x.float(), dim=-3, eps=1e-6) for x in (prediction, target))
    return (prediction - target).square().sum(-3).mean((-2, -1))


def build(options: Options) -> Perceptual:
    """Build the loss."""
    return Perceptual()
