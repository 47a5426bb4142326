"""Pixel error of the one-step decode, from tokens alone: |x̂ - x| or |x̂ - x|² per pixel of the field.

Samples that saw a noisy image do not count: this is the decode that users get.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.objective import in_field
from modeling.prediction import Prediction
from utils.types import Batch


@dataclass
class Options:
    """`kind` is mse or l1, of intensities in [0, 1]."""

    weight: float = 1.0
    kind: str = "mse"


@dataclass
class Pixel:
    """Zero on identity."""

    weight: float
    kind: str

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over pixels of one-step samples, and their count."""
        error = prediction.error()
        error = error.square() if self.kind == "mse" else error.abs()
        return in_field(error, batch.field, prediction.one_step)


def build(options: Options) -> Pixel:
    """Build the term."""
    if options.kind not in ("mse", "l1"):
        raise ValueError(f"losses.pixel.kind is {options.kind!r}: expected mse or l1")
    return Pixel(options.weight, options.kind)
