"""Pixel error of the reconstruction by the tokenizer, stage 1: mse |x̂ - x|² + l1 |x̂ - x|, per pixel of the field."""

from dataclasses import dataclass

from torch import Tensor

from modeling.heart.region import weight_of
from modeling.objective import LossOptions, pixels_in_field, sum_in_field
from modeling.prediction import Prediction
from utils.config.ranges import AboveZero, Millimetres, NotNegative
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """Options beside `LossOptions`.

    Args:
        mse: weight of the squared error of intensities in [0, 1].
        l1: weight of the absolute error.
        heart: weight of a pixel near the labelled heart relative to other pixels; the mean weight is 1.
        margin_mm: largest distance in mm of such a pixel from the labels, in the plane of the slice.
    """

    mse: NotNegative = 1.0
    l1: NotNegative = 0.0
    heart: AboveZero = 1.0
    margin_mm: Millimetres = 12.0


@dataclass
class Reconstruction:
    """Zero on identity."""

    options: Options
    needs = ("decoder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of pixels in the field."""
        return pixels_in_field(batch)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over pixels."""
        options, error = self.options, prediction.error()
        weight = weight_of(batch, options.heart, options.margin_mm)
        error = options.mse * error.square() + options.l1 * error.abs()
        return sum_in_field(error, batch.field, weight=weight)


def build(options: Options) -> Reconstruction:
    """Build the loss."""
    return Reconstruction(options)
