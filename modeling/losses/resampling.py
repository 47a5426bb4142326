"""Resampling: the contexts that a cine's tokens expand to equal the quantized latents of its frames.

A mean of |c - q|², where c is the context that the resampler expands for a frame's token and q that frame's quantized
latent. The codes are targets without gradient: the resampler learns the inputs that the frame decoder was trained on.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction, have
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """No options beside `LossOptions`."""


class Resampling:
    """A mean over frames of the mean over latent tokens, without padding; zero where the contexts are the codes."""

    needs = ("resampler", "encoder")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """How many frames are no padding."""
        return batch.valid_frames().sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over frames."""
        needed = "a resampler (model.layout sequence)"
        context = have(prediction.context, needed).float().flatten(0, 1)  # (B * D * T, K, token_size)
        target = prediction.tokens()[0].codes.detach()
        error = (context - target).square().sum(-1).mean(1)
        return error[batch.valid_frames()].sum()


def build(options: Options) -> Resampling:
    """Build the loss."""
    return Resampling()
