"""Rate loss of the ladder: ideal code length in bits a coefficient, times (step / 0.1)^exponent.

A fine step costs many more bits than a coarse one. The factor makes all steps count about equally.

Source: Shannon, A mathematical theory of communication, 1948, theorem 9 (code length -log2 p).
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import Range
from utils.types import Batch

UNIT_STEP = 0.1


@dataclass
class Options(LossOptions):
    """`exponent` of the step; with 0 all bits count the same."""

    exponent: Annotated[float, Range(0, 2)] = 1.1


@dataclass
class Rate:
    """Bits of all coefficients of a sample, a mean over the drawn steps."""

    exponent: float
    needs = ("ladder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of pixels of all phases of slices without padding."""
        return batch.valid().sum() * batch.image[0, 0].numel()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over samples."""
        bits, steps, _ = prediction.ladder_output()
        return (bits * (steps / UNIT_STEP) ** self.exponent).mean(1).sum()


def build(options: Options) -> Rate:
    """Build the loss."""
    return Rate(options.exponent)
