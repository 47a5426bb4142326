"""Segmentation of originals: cross-entropy + (1 - Dice), or + (1 - IoU), on key frames with labels.

The term trains the segmenter. `segmentation_reconstruction` is the term that trains the decoder.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.losses._frames import sum_over_frames
from modeling.prediction import Prediction
from utils.config.ranges import NotNegative
from utils.types import Batch


@dataclass
class Options:
    """`overlap` is `dice` or `iou`."""

    weight: NotNegative = 1.0
    overlap: str = "dice"


@dataclass
class Segmentation:
    """A mean over labelled key frames; zero for right logits."""

    weight: float
    overlap: str
    needs = ("segmenter", "key_frames", "labels")

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many key frames are labelled."""
        return batch.key_labels()[1].sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over labelled key frames, and their count."""
        total = sum_over_frames(prediction.key_logits(), batch, batch.key_labels()[1], self.overlap)
        return total, self.count(batch, prediction.one_step, prediction.step)


def build(options: Options) -> Segmentation:
    """Build the term.

    Raises:
        ValueError: for an overlap that is neither.
    """
    if options.overlap not in ("dice", "iou"):
        raise ValueError(f"losses.segmentation.overlap is {options.overlap!r}: expected dice or iou")
    return Segmentation(options.weight, options.overlap)
