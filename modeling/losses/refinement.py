"""Refinement loss of the ladder: squared error of refined components, as a fraction of the error before refinement.

A value of 1 is no gain; 10 log10 of it is the gain in dB, with a negative sign.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """The options of every loss."""


class RefinementError:
    """Remaining error, a mean over samples and drawn steps."""

    needs = ("ladder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of samples."""
        return one_step.new_tensor(len(batch.image), dtype=batch.image.dtype)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over samples."""
        return prediction.ladder_output().error.mean(1).sum()


def build(options: Options) -> RefinementError:
    """Build the loss."""
    return RefinementError()
