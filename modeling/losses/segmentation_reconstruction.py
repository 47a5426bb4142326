"""Segmentation of the reconstruction: cross-entropy + (1 - Dice), or + (1 - IoU), on key frames with labels.

The conditioning's segmenter segments the reconstruction with fixed weights, so the gradient reaches the decoder alone.
Samples that saw a noisy image do not count: this is the decode that users get.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.losses._frames import sum_over_frames
from modeling.prediction import Prediction
from utils.config.ranges import Count, NotNegative
from utils.types import Batch


@dataclass
class Options:
    """The term.

    Args:
        weight: of the term.
        overlap: `dice` or `iou`.
        warmup_steps: the term counts from this optimizer step on, when the segmenter trains in the same run.
    """

    weight: NotNegative = 0.1
    overlap: str = "dice"
    warmup_steps: Count = 0


@dataclass
class SegmentationReconstruction:
    """A mean over labelled key frames of one-step samples; zero for right logits."""

    options: Options
    needs = ("decoder", "segmenter", "key_frames", "labels")

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many key frames of one-step samples are labelled; none during the warm-up."""
        return self.counted(batch, one_step, step).sum()

    def counted(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """Which key frames count, (B, D, 2) bool."""
        return batch.key_labels()[1] & one_step[:, None, None] & (step >= self.options.warmup_steps)

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over labelled key frames of one-step samples, and their count."""
        counted = self.counted(batch, prediction.one_step, prediction.step)
        if prediction.step < self.options.warmup_steps:
            return prediction.image.new_zeros(()), counted.sum()
        logits = prediction.key_logits_of_reconstruction()
        return sum_over_frames(logits, batch, counted, self.options.overlap), counted.sum()


def build(options: Options) -> SegmentationReconstruction:
    """Build the term.

    Raises:
        ValueError: for an overlap that is neither.
    """
    if options.overlap not in ("dice", "iou"):
        raise ValueError(f"losses.segmentation_reconstruction.overlap is {options.overlap!r}: expected dice or iou")
    return SegmentationReconstruction(options)
