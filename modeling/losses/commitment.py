"""Quantizer loss: cost |z - sg(e)|² moves latents to their entries, |sg(z) - e|² moves entries to their latents.

Source: van den Oord et al., Neural Discrete Representation Learning, 2017, eq. 3.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import NotNegative
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """`cost` is the published commitment_cost."""

    cost: NotNegative = 0.25


@dataclass
class Commitment:
    """The published quantizer loss, a mean over frames of the mean over latent elements, without padded slices."""

    cost: float
    needs = ("encoder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of frames without padding."""
        return batch.valid_frames().sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over frames."""
        quantized, _ = prediction.tokens()
        z, codes = quantized.z, quantized.codes
        error = self.cost * (z - codes.detach()).square() + (z.detach() - codes).square()
        return error.mean((1, 2))[batch.valid_frames()].sum()


def build(options: Options) -> Commitment:
    """Build the loss."""
    return Commitment(options.cost)
