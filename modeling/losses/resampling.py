"""Resampling: what the decoder reads of a whole cine's tokens is what it would read of each frame's own.

A mean of |c - q|², where c is the context that the resampler expands for a frame's token and q that frame's own
quantized latent. The codes are targets without gradient: the term leads the resampler to what the frame decoder knows.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.prediction import Prediction, have
from utils.config.ranges import NotNegative
from utils.types import Batch


@dataclass
class Options:
    """Weight of the term."""

    weight: NotNegative = 1.0


@dataclass
class Resampling:
    """A mean over frames of the mean over latent tokens, without padding; zero where the contexts are the codes."""

    weight: float
    needs = ("resampler", "encoder")

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many frames are no padding."""
        return batch.frames().sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over frames, and their count."""
        needed = "a resampler (model.layout sequence)"
        context = have(prediction.context, needed).float().flatten(0, 1)  # (B * D * T, K, token_size)
        target = prediction.tokens()[0].codes.detach()
        error = (context - target).square().sum(-1).mean(1)
        return error[batch.frames()].sum(), self.count(batch, prediction.one_step, prediction.step)


def build(options: Options) -> Resampling:
    """Build the term."""
    return Resampling(options.weight)
