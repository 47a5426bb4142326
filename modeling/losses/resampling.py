"""Resampling: what the decoder reads of a whole cine's tokens is what it would read of each frame's own.

A mean of |c - q|², where c is the context that the resampler expands for a frame's token and q that frame's own
quantized latent. The codes are targets without gradient: the term leads the resampler to what the frame decoder knows.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.prediction import Prediction, have
from utils.types import Batch


@dataclass
class Options:
    """Weight of the term."""

    weight: float = 1.0


@dataclass
class Resampling:
    """A mean over latent tokens of frames that are no padding; zero where the contexts are the codes."""

    weight: float
    needs = ("resampler", "encoder")

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over tokens, and their number."""
        needed = "a resampler (model.layout sequence)"
        context = have(prediction.context, needed).float().flatten(0, 1)  # (B * D * T, K, token_size)
        target = prediction.tokens()[0].codes.detach()
        there = batch.frames()
        error = (context - target).square().sum(-1) * there[:, None]
        return error.sum(), there.sum() * error.shape[1]


def build(options: Options) -> Resampling:
    """Build the term."""
    return Resampling(options.weight)
