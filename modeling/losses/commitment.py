"""Quantizer loss: cost |z - sg(e)|² draws latents to their entries, |sg(z) - e|² draws entries to their latents.

Source: van den Oord et al., Neural Discrete Representation Learning, 2017, eq. 3.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.prediction import Prediction
from utils.config.ranges import NotNegative
from utils.types import Batch


@dataclass
class Options:
    """`cost` is the published commitment_cost."""

    weight: NotNegative = 1.0
    cost: NotNegative = 0.25


@dataclass
class Commitment:
    """The published quantizer loss, a mean over frames of the mean over latent elements; padded slices do not count."""

    weight: float
    cost: float
    needs = ("encoder",)

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many frames are no padding."""
        return batch.frames().sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over frames, and their count."""
        quantized, _ = prediction.tokens()
        z, codes = quantized.z, quantized.codes
        error = self.cost * (z - codes.detach()).square() + (z.detach() - codes).square()
        return error.mean((1, 2))[batch.frames()].sum(), self.count(batch, prediction.one_step, prediction.step)


def build(options: Options) -> Commitment:
    """Build the term."""
    return Commitment(options.weight, options.cost)
