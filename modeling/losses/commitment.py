"""Quantizer loss: cost |z - sg(e)|² draws latents to their entries, |sg(z) - e|² draws entries to their latents.

Source: van den Oord et al., Neural Discrete Representation Learning, 2017, eq. 3.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.prediction import Prediction
from utils.types import Batch


@dataclass
class Options:
    """`cost` is the published commitment_cost."""

    weight: float = 1.0
    cost: float = 0.25


@dataclass
class Commitment:
    """The published quantizer loss, a mean over the elements of the latents; padded slices do not count."""

    weight: float
    cost: float
    needs = ("encoder",)

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over latent elements, and their count."""
        quantized, _ = prediction.tokens()
        z, codes = quantized.z, quantized.codes
        error = self.cost * (z - codes.detach()).square() + (z.detach() - codes).square()
        weight = batch.frames().to(error)[:, None, None].expand_as(error)
        return (error * weight).sum(), weight.sum()


def build(options: Options) -> Commitment:
    """Build the term."""
    return Commitment(options.weight, options.cost)
