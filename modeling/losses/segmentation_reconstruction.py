"""Segmentation of the reconstruction: cross-entropy + (1 - Dice), or + (1 - IoU), on key frames with labels.

The conditioning's segmenter segments the reconstruction with fixed weights, so gradients train the decoder alone.
Samples that are decoded from a noisy image are not counted, because inference decodes from tokens alone.
"""

from dataclasses import dataclass

from torch import Tensor

from modeling.losses._frames import Overlap, sum_over_frames
from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import NotNegative
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """`overlap` is `dice` or `iou`; `warmup_steps` is needed if the segmenter is trained in the same run."""

    weight: NotNegative = 0.1
    overlap: Overlap = "dice"


@dataclass
class SegmentationReconstruction:
    """A mean over labelled key frames of one-step samples; zero for correct logits."""

    overlap: Overlap
    needs = ("decoder", "segmenter", "key_frames", "labels")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of labelled key frames of one-step samples."""
        return self.counted(batch, one_step).sum()

    def counted(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return which key frames are counted, (B, D, 2) bool."""
        return batch.key_labels()[1] & one_step[:, None, None]

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over labelled key frames of one-step samples."""
        counted = self.counted(batch, prediction.one_step)
        return sum_over_frames(prediction.fixed_segmenter().logits, batch, counted, self.overlap)


def build(options: Options) -> SegmentationReconstruction:
    """Build the loss."""
    return SegmentationReconstruction(options.overlap)
