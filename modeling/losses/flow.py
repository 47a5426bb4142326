"""Flow matching in velocity space: |x̂ - x|² / max(1 - t, 0.05)² per pixel, images scaled to [-1, 1].

Source: Liu et al., Flow Straight and Fast, 2022, eq. 1, with the network predicting the clean image.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.flow import along, velocity_weight
from modeling.objective import LossOptions, pixels_in_field, sum_in_field
from modeling.prediction import Prediction
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """No options beside `LossOptions`."""


class Flow:
    """Zero for a perfect network, at every t."""

    needs = ("decoder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of pixels in the field."""
        return pixels_in_field(batch)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over pixels."""
        error = 2 * prediction.error()  # from [0, 1] to [-1, 1], differences double
        weight = along(velocity_weight(prediction.t), error)
        return sum_in_field(weight * error.square(), batch.field)


def build(options: Options) -> Flow:
    """Build the loss."""
    return Flow()
