"""Pixel error of the one-step decode, from tokens alone: |x̂ - x| or |x̂ - x|² per pixel of the field.

Samples that saw a noisy image do not count: this is the decode that users get.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.heart.region import pixels_in_field, sum_in_field, weight_of
from modeling.prediction import Prediction
from utils.config.ranges import AboveZero, Millimetres, NotNegative
from utils.types import Batch


@dataclass
class Options:
    """The term.

    Args:
        weight: of the term.
        kind: mse or l1, of intensities in [0, 1].
        heart: weight of a pixel near the labelled heart, against 1 elsewhere; an even error costs the same.
        margin_mm: distance from the labels up to which a pixel is near, in the plane of the slice.
    """

    weight: NotNegative = 1.0
    kind: str = "mse"
    heart: AboveZero = 1.0
    margin_mm: Millimetres = 12.0


@dataclass
class Pixel:
    """Zero on identity."""

    options: Options
    needs = ("decoder",)

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many pixels of one-step samples lie in the field."""
        return pixels_in_field(batch, one_step)

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over pixels of one-step samples, and their count."""
        error = prediction.error()
        error = error.square() if self.options.kind == "mse" else error.abs()
        weight = weight_of(batch, self.options.heart, self.options.margin_mm)
        count = self.count(batch, prediction.one_step, prediction.step)
        return sum_in_field(error, batch.field, prediction.one_step, weight), count


def build(options: Options) -> Pixel:
    """Build the term."""
    if options.kind not in ("mse", "l1"):
        raise ValueError(f"losses.pixel.kind is {options.kind!r}: expected mse or l1")
    return Pixel(options)
