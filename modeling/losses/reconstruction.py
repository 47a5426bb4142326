"""Pixel error of the tokenizer's own reconstruction, stage 1: mse |x̂ - x|² + l1 |x̂ - x|, per pixel of the field."""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import in_field
from modeling.prediction import Prediction
from modeling.region import check_heart, weight_of
from utils.types import Batch


@dataclass
class Options:
    """The term.

    Args:
        weight: of the term.
        mse: weight of the squared error of intensities in [0, 1].
        l1: weight of the absolute error.
        heart: weight of a pixel near the labelled heart, against 1 elsewhere; an even error costs the same.
        margin: pixels around the labels that are near.
    """

    weight: float = 1.0
    mse: float = 1.0
    l1: float = 0.0
    heart: float = 1.0
    margin: int = 8


@dataclass
class Reconstruction:
    """Zero on identity."""

    options: Options
    needs = ("decoder",)

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over pixels, and their count."""
        options, error = self.options, prediction.error()
        weight = weight_of(batch, options.heart, options.margin)
        return in_field(options.mse * error.square() + options.l1 * error.abs(), batch.field, weight=weight)


def build(options: Options) -> Reconstruction:
    """Build the term."""
    check_heart("reconstruction", options.heart, options.margin)
    return Reconstruction(options)
