"""Codebook usage: log V - H(p), where p is the mean soft assignment of the batch's latents to the V entries.

0 if all entries are used equally, log V if only one entry is used.
Source: Yu et al., Language Model Beats Diffusion, 2024, eq. 5 (the entropy of the mean assignment).
"""

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor

from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import AboveZero, NotNegative
from utils.ranks import sum_over_ranks
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """`temperature` divides the squared distances; smaller values are closer to the hard assignment."""

    weight: NotNegative = 0.01
    temperature: AboveZero = 0.1


@dataclass
class CodebookUsage:
    """Difference from full usage in nats; padded slices are not counted."""

    temperature: float
    needs = ("encoder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return 1: one value per batch."""
        return torch.ones((), device=batch.image.device)

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the difference from full usage in nats, with the assignment averaged over all ranks."""
        quantized, codebook = prediction.tokens()
        weight = batch.valid_frames().to(quantized.z).repeat_interleave(quantized.z.shape[1])
        z = quantized.z.flatten(0, 1)
        distance = codebook.square().sum(1) - 2 * z @ codebook.T  # |z|² is the same for every entry
        assigned = weight @ (-distance / self.temperature).softmax(1)  # (V,)
        p = sum_over_ranks(assigned)
        p = p / p.sum()
        entropy = -(p * p.clamp(min=1e-12).log()).sum()
        return log(len(codebook)) - entropy


def build(options: Options) -> CodebookUsage:
    """Build the loss."""
    return CodebookUsage(options.temperature)
