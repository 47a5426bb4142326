"""Pixel error of the tokenizer's own reconstruction, stage 1: mse |x̂ - x|² + l1 |x̂ - x|, per pixel of the field."""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import in_field
from modeling.prediction import Prediction
from utils.types import Batch


@dataclass
class Options:
    """Weights of the squared and of the absolute error of intensities in [0, 1]."""

    weight: float = 1.0
    mse: float = 1.0
    l1: float = 0.0


@dataclass
class Reconstruction:
    """Zero on identity."""

    weight: float
    mse: float
    l1: float

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over pixels, and their count."""
        error = prediction.error()
        return in_field(self.mse * error.square() + self.l1 * error.abs(), batch.field)


def build(options: Options) -> Reconstruction:
    """Build the term."""
    return Reconstruction(options.weight, options.mse, options.l1)
