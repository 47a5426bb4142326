"""Volume: Huber of log(1 + v), where v are millilitres of RV, MYO and LV in a slice, at ED and ES.

v is measured on the reconstruction by the segmenter with its gradients off, and held against the ground truth's. A soft
mask leaks: a hundredth of softmax tail over a slice is several mL. So the logits are sharpened, and only the
neighbourhood of the true structures counts; what is drawn elsewhere is the segmentation term's business.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.prediction import Prediction
from modeling.region import near
from utils.types import Batch


@dataclass
class Options:
    """The term.

    Args:
        weight: of the term.
        delta: of Huber's loss, in log(1 + mL).
        sharpness: factor on the logits.
        margin: pixels around the true heart in which volumes are counted.
        warmup_steps: counted from this optimizer step on.
    """

    weight: float = 0.1
    delta: float = 0.1
    sharpness: float = 4.0
    margin: int = 6
    warmup_steps: int = 0


@dataclass
class Volume:
    """A mean over labelled frames and structures; scales with the spacing."""

    options: Options

    @property
    def weight(self) -> float:
        """Of the term in the sum."""
        return self.options.weight

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over labelled key frames drawn from tokens alone and their structures, and their count."""
        options = self.options
        labels, labelled = batch.key_labels()
        labelled = labelled & prediction.one_step[:, None, None]
        count = 3 * labelled.sum()
        if prediction.step < options.warmup_steps:
            return torch.zeros((), device=labels.device), torch.zeros_like(count)
        logits = prediction.key_logits_of_reconstruction()
        v = slice_volumes_ml(logits, near(labels > 0, options.margin), batch.spacing_mm, options)
        truth = torch.stack([(labels == label).sum((3, 4)) for label in (1, 2, 3)], dim=3)  # (B, D, 2, 3) pixels
        truth = truth * batch.spacing_mm.prod(1).view(-1, 1, 1, 1) / 1000
        error = F.huber_loss(v.log1p(), truth.log1p(), delta=options.delta, reduction="none")
        return error[labelled].sum(), count


def slice_volumes_ml(logits: Tensor, region: Tensor, spacing_mm: Tensor, options: Options) -> Tensor:
    """Soft volumes of RV, MYO and LV in each slice, (B, D, 2, 3) in mL.

    Args:
        logits: (B, D, 2, 4, H, W).
        region: (B, D, 2, H, W) bool, the pixels that count.
        spacing_mm: (B, 3) along H, W and D.
        options: `sharpness` is used.
    """
    p = (options.sharpness * logits).softmax(3)[:, :, :, 1:]
    pixels = (p * region.unsqueeze(3)).sum((4, 5))
    return pixels * spacing_mm.prod(1).view(-1, 1, 1, 1) / 1000


def build(options: Options) -> Volume:
    """Build the term.

    Raises:
        ValueError: for a delta, sharpness or margin that is not positive.
    """
    for name in ("delta", "sharpness", "margin"):
        if not getattr(options, name) > 0:
            raise ValueError(f"losses.volume.{name} is {getattr(options, name)}: expected a positive number")
    return Volume(options)
