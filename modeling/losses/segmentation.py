"""Segmentation of originals: cross-entropy + (1 - Dice), or + (1 - IoU), on key frames with labels.

This loss trains the segmenter. `segmentation_reconstruction` trains the decoder.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.losses._frames import Overlap, sum_over_frames
from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """`overlap` is `dice` or `iou`."""

    overlap: Overlap = "dice"


@dataclass
class Segmentation:
    """A mean over labelled key frames; zero for correct logits."""

    overlap: Overlap
    needs = ("segmenter", "key_frames", "labels")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of labelled key frames."""
        return batch.key_labels()[1].sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over labelled key frames."""
        return sum_over_frames(prediction.key_logits(), batch, batch.key_labels()[1], self.overlap)


def build(options: Options) -> Segmentation:
    """Build the loss."""
    return Segmentation(options.overlap)
