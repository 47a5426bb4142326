"""Pixel error of the one-step decode, from tokens alone: |x̂ - x| or |x̂ - x|² per pixel of the field.

Samples that are decoded from a noisy image are not counted, because inference decodes from tokens alone.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.heart.region import weight_of
from modeling.objective import LossOptions, pixels_in_field, sum_in_field
from modeling.prediction import Prediction
from utils.config.ranges import AboveZero, Millimetres
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """Options beside `LossOptions`.

    Args:
        kind: mse or l1, of intensities in [0, 1].
        heart: weight of a pixel near the labelled heart relative to other pixels; the mean weight is 1.
        margin_mm: largest distance in mm of such a pixel from the labels, in the plane of the slice.
    """

    kind: str = "mse"
    heart: AboveZero = 1.0
    margin_mm: Millimetres = 12.0


@dataclass
class Pixel:
    """Zero on identity."""

    options: Options
    needs = ("decoder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of pixels of one-step samples in the field."""
        return pixels_in_field(batch, one_step)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over pixels of one-step samples."""
        error = prediction.error()
        error = error.square() if self.options.kind == "mse" else error.abs()
        weight = weight_of(batch, self.options.heart, self.options.margin_mm)
        return sum_in_field(error, batch.field, prediction.one_step, weight)


def build(options: Options) -> Pixel:
    """Build the loss."""
    if options.kind not in ("mse", "l1"):
        raise ValueError(f"losses.pixel.kind is {options.kind!r}: expected mse or l1")
    return Pixel(options)
