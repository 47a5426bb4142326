"""Pixel error of the one-step decode, from tokens alone: |x̂ - x| or |x̂ - x|² per pixel of the field.

Samples that saw a noisy image do not count: this is the decode that users get.
"""

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
        kind: mse or l1, of intensities in [0, 1].
        heart: weight of a pixel near the labelled heart, against 1 elsewhere; an even error costs the same.
        margin: pixels around the labels that are near.
    """

    weight: float = 1.0
    kind: str = "mse"
    heart: float = 1.0
    margin: int = 8


@dataclass
class Pixel:
    """Zero on identity."""

    options: Options
    needs = ("decoder",)

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over pixels of one-step samples, and their count."""
        error = prediction.error()
        error = error.square() if self.options.kind == "mse" else error.abs()
        return in_field(
            error, batch.field, prediction.one_step, weight_of(batch, self.options.heart, self.options.margin)
        )


def build(options: Options) -> Pixel:
    """Build the term."""
    if options.kind not in ("mse", "l1"):
        raise ValueError(f"losses.pixel.kind is {options.kind!r}: expected mse or l1")
    check_heart("pixel", options.heart, options.margin)
    return Pixel(options)
