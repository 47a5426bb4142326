"""Volume: Huber of log(1 + v), where v are millilitres of RV, MYO and LV at ED and ES, in slices and in whole stacks.

v is measured on the reconstruction by the segmenter with its gradients off, and held against the ground truth's; of
stacks so is the ejection fraction. What is drawn far from the true heart is the segmentation term's business.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.heart.measures import STRUCTURES, ejection_fraction, measure, slice_volumes_ml, whole_stacks
from modeling.prediction import NEEDS_SEGMENTER, Prediction, have
from utils.config.ranges import AboveZero, Count, Millimetres, NotNegative
from utils.types import Batch


@dataclass
class Options:
    """The term and its three parts.

    Args:
        weight: of the term.
        slices: weight of the volumes in each slice; 0 leaves the part out.
        stack: weight of the volumes of whole stacks (dataset.unit `stack`); 0 leaves the part out.
        ejection: weight of the ejection fractions of LV and RV of whole stacks; 0 leaves the part out.
        delta: of Huber's loss, in log(1 + mL) and in EF / 100 %.
        sharpness: factor on the logits.
        margin_mm: distance from the true heart up to which pixels are counted, in the plane of the slice.
        warmup_steps: counted from this optimizer step on.
    """

    weight: NotNegative = 0.1
    slices: NotNegative = 1.0
    stack: NotNegative = 1.0
    ejection: NotNegative = 1.0
    delta: AboveZero = 0.1
    sharpness: AboveZero = 4.0
    margin_mm: Millimetres = 10.0
    warmup_steps: Count = 0


@dataclass
class Volume:
    """A mean over labelled frames and structures, where a stack's errors stand in each of its frames."""

    options: Options
    needs = ("decoder", "segmenter", "key_frames", "labels")

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How many structures of labelled key frames of one-step samples there are; none during the warm-up."""
        labelled = batch.key_labels()[1] & one_step[:, None, None] & (step >= self.options.warmup_steps)
        return labelled.sum() * STRUCTURES

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over labelled key frames drawn from tokens alone and their structures, and their count."""
        options = self.options
        judge = have(prediction.judge, NEEDS_SEGMENTER)
        count = self.count(batch, prediction.one_step, prediction.step)
        if prediction.step < options.warmup_steps:
            return torch.zeros((), device=batch.image.device), count
        found = measure(judge.logits, batch, options.sharpness, options.margin_mm)
        v, truth = (slice_volumes_ml(masks, batch.spacing_mm) for masks in (found.masks, found.truth))
        error = options.slices * self.huber(v.log1p(), truth.log1p())  # (B, D, 2, S)
        labelled = found.labelled.unsqueeze(3)
        of_stack = self.stack_error((v * labelled).sum(1), (truth * labelled).sum(1))  # (B, 2, S)
        error = error + (of_stack * whole_stacks(batch, found.labelled).view(-1, 1, 1)).unsqueeze(1)
        counted = labelled & prediction.one_step.view(-1, 1, 1, 1)
        return (error * counted).sum(), count

    def stack_error(self, v: Tensor, truth: Tensor) -> Tensor:  # (B, 2, S) mL each
        """Error of whole volumes, (B, 2, S), and in each the mean error of the ejection fractions that are known."""
        (ef, known), (true_ef, _) = (ejection_fraction(ml, truth) for ml in (v, truth))
        ejection = (self.huber(ef, true_ef) * known).sum(1) / known.sum(1).clamp(min=1)
        volumes = self.huber(v.log1p(), truth.log1p())
        return self.options.stack * volumes + self.options.ejection * ejection.view(-1, 1, 1)

    def huber(self, found: Tensor, truth: Tensor) -> Tensor:
        """Elementwise."""
        return F.huber_loss(found, truth, delta=self.options.delta, reduction="none")


def build(options: Options) -> Volume:
    """Build the term.

    Raises:
        ValueError: for parts that are all 0.
    """
    parts = {name: getattr(options, name) for name in ("slices", "stack", "ejection")}
    if not any(parts.values()):
        raise ValueError(f"losses.volume has the parts {parts}: expected weights that are not all 0")
    return Volume(options)
