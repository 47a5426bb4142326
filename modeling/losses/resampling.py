"""Resampling: distance of the contexts decoded from the tokens of a cine to the quantized latents of its frames.

A mean of |c - q|², where c is the decoded context of a frame's token and q the quantized latent of this frame. q is a
target without gradient: the resampler learns the input on which the frame decoder was trained.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction, require
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """No options beside `LossOptions`."""


class Resampling:
    """A mean over frames of the mean over latent tokens, without padding; zero if c = q."""

    needs = ("resampler", "encoder")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of frames without padding."""
        return batch.valid_frames().sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over frames."""
        needed = "a resampler (model.layout sequence)"
        context = require(prediction.context, needed).float().flatten(0, 1)  # (B * D * T, K, token_size)
        target = prediction.tokens()[0].codes.detach()
        error = (context - target).square().sum(-1).mean(1)
        return error[batch.valid_frames()].sum()


def build(options: Options) -> Resampling:
    """Build the loss."""
    return Resampling()
