"""Perceptual: distance of the features of x̂ and x in the segmenter's encoder, at every scale, at ED and ES.

Features are normalised to unit length at each position, as in LPIPS. The network is the heart segmenter, which needs no
download. Its weights are fixed.

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
    """`warmup_steps` is needed if the segmenter is trained in the same run."""

    weight: NotNegative = 0.1


class Perceptual:
    """A mean over key frames that are decoded from tokens alone; zero if x̂ = x."""

    needs = ("decoder", "segmenter", "key_frames")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of key frames of one-step samples without padding."""
        return self.counted(batch, one_step).sum()

    def counted(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return which key frames are counted, (B, D, 2) bool."""
        return (batch.valid() & one_step[:, None])[..., None].expand(-1, -1, 2)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the sum over key frames of one-step samples without padding."""
        segmenter, counted = prediction.fixed_segmenter(), self.counted(batch, prediction.one_step)
        if not counted.any():
            return prediction.image.new_zeros(())
        with torch.no_grad():
            originals = segmenter.segment(at_phases(prediction.image, batch.key_frames)).pyramid
        levels = zip(segmenter.segmented.pyramid, originals, strict=True)
        distance = torch.stack([feature_distance(prediction, target) for prediction, target in levels]).mean(0)
        return distance[counted].sum()  # of (B, D, 2)


def feature_distance(prediction: Tensor, target: Tensor) -> Tensor:  # (..., C, h, w) each
    """Return the mean squared distance of unit features, (...)."""
    prediction, target = (F.normalize(x.float(), dim=-3, eps=1e-6) for x in (prediction, target))
    return (prediction - target).square().sum(-3).mean((-2, -1))


def build(options: Options) -> Perceptual:
    """Build the loss."""
    return Perceptual()
