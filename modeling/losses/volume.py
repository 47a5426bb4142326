"""Volume: Huber loss of log(1 + v), with v the volume in mL of RV, MYO and LV at ED and ES, in slices and in stacks.

The segmenter with fixed weights measures v on the reconstruction; the target is the ground truth. The ejection fraction
of whole stacks is compared too. Pixels far from the true heart are not counted: the segmentation loss includes them.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from modeling.heart.measures import NUM_STRUCTURES, ejection_fraction, measure, slice_volumes_ml, whole_stacks
from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import AboveZero, Millimetres, NotNegative
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """Options of the three parts.

    Args:
        slices: weight of the volumes in each slice; 0 leaves the part out.
        stack: weight of the volumes of whole stacks (dataset.unit `stack`); 0 leaves the part out.
        ejection: weight of the ejection fractions of LV and RV of whole stacks; 0 leaves the part out.
        delta: threshold of the Huber loss, in log(1 + mL) and in EF / 100 %.
        sharpness: factor on the logits.
        margin_mm: largest distance in mm, in the plane of the slice, of counted pixels from the true heart.
    """

    weight: NotNegative = 0.1
    slices: NotNegative = 1.0
    stack: NotNegative = 1.0
    ejection: NotNegative = 1.0
    delta: AboveZero = 0.1
    sharpness: AboveZero = 4.0
    margin_mm: Millimetres = 10.0


@dataclass
class Volume:
    """A mean over labelled frames and structures; the errors of a stack are added to each of its frames."""

    options: Options
    needs = ("decoder", "segmenter", "key_frames", "labels")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of structures in labelled key frames of one-step samples."""
        return (batch.key_labels()[1] & one_step[:, None, None]).sum() * NUM_STRUCTURES

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the sum over labelled key frames that are decoded from tokens alone, and over their structures."""
        options = self.options
        measured = measure(prediction.fixed_segmenter().logits, batch, options.sharpness, options.margin_mm)
        v, truth = (slice_volumes_ml(masks, batch.spacing_mm) for masks in (measured.masks, measured.truth))
        error = options.slices * self.huber(v.log1p(), truth.log1p())  # (B, D, 2, S)
        labelled = measured.labelled.unsqueeze(3)
        of_stack = self.stack_error((v * labelled).sum(1), (truth * labelled).sum(1))  # (B, 2, S)
        error = error + (of_stack * whole_stacks(batch, measured.labelled).view(-1, 1, 1)).unsqueeze(1)
        counted = labelled & prediction.one_step.view(-1, 1, 1, 1)
        return (error * counted).sum()

    def stack_error(self, v: Tensor, truth: Tensor) -> Tensor:  # (B, 2, S) mL each
        """Return the error of whole volumes, (B, 2, S), plus the mean error of the known ejection fractions in each."""
        (ef, known), (true_ef, _) = (ejection_fraction(ml, truth) for ml in (v, truth))
        ejection = (self.huber(ef, true_ef) * known).sum(1) / known.sum(1).clamp(min=1)
        volumes = self.huber(v.log1p(), truth.log1p())
        return self.options.stack * volumes + self.options.ejection * ejection.view(-1, 1, 1)

    def huber(self, prediction: Tensor, truth: Tensor) -> Tensor:
        """Compute the Huber loss elementwise."""
        return F.huber_loss(prediction, truth, delta=self.options.delta, reduction="none")


def build(options: Options) -> Volume:
    """Build the loss.

    Raises:
        ValueError: when all weights are 0.
    """
    parts = {name: getattr(options, name) for name in ("slices", "stack", "ejection")}
    if not any(parts.values()):
        raise ValueError(f"losses.volume has the parts {parts}: expected weights that are not all 0")
    return Volume(options)
