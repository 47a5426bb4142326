"""Contrastive: latents of a frame are closer to its neighbours in the cycle than to frames of other patients.

InfoNCE over the encoder's latents before projection: their mean over the K tokens of a frame is the input of a
projection head, which belongs to this loss, not to the model. Positives are the phases before and after, circular;
negatives are all frames of other patients, on all ranks. Other frames of the same patient are neither.

Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4; projection head as
in Chen et al., SimCLR, 2020; learned temperature as in Radford et al., CLIP, 2021.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.objective import LossOptions
from modeling.prediction import Prediction, require
from utils.config.ranges import AboveZero, NotNegative, Width
from utils.ranks import gather_rows
from utils.types import Batch

LARGEST_SCALE = 100.0  # 1 / temperature, clamped as CLIP's
EXCLUDED = -1e4  # a similarity without effect; minus infinity gives NaN gradients if there is only one patient


@dataclass
class Options(LossOptions):
    """Options beside `LossOptions`.

    Args:
        width: E, width of the encoder's latents.
        dim: width of the projected frames.
        temperature: initial value; it is learned.
    """

    weight: NotNegative = 0.1
    width: Width = 1024
    dim: Width = 128
    temperature: AboveZero = 0.1


class Contrastive(nn.Module):
    """A mean over frames with at least one positive and one negative; log(1 + negatives) if all frames are equal."""

    needs = ("encoder",)

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.width = options.width
        self.head = nn.Sequential(
            nn.LayerNorm(options.width),
            nn.Linear(options.width, options.width),
            nn.GELU(),
            nn.Linear(options.width, options.dim),
        )
        self.log_scale = nn.Parameter(torch.tensor(log(1 / options.temperature)))

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of frames with at least one positive and one negative."""
        return self.counted(batch)[1].sum()

    def counted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the negatives of each frame among all ranks, and which frames are counted, (B * D * T, ...) bool."""
        patient = batch.patient.repeat_interleave(batch.image.shape[1] * batch.phase.shape[1])
        frames = batch.valid_frames()
        negative = patient[:, None] != gather_rows(patient[frames])[None]
        return negative, frames & negative.any(1) & (batch.phase.shape[1] > 1)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over frames with at least one positive and one negative."""
        latents = require(prediction.latents, "an encoder that runs (model.decoder titok, no dataset.tokens)")
        groups, phases, _, width = latents.shape
        if width != self.width:
            raise ValueError(
                f"losses.contrastive.width is {self.width}, but the encoder's latents have {width} channels; set it so"
            )
        pooled = latents.mean(2).flatten(0, 1).float()
        frames = F.normalize(self.head(pooled), dim=1)  # (G * T, dim)
        others = gather_rows(frames[batch.valid_frames()])
        negative, counted = self.counted(batch)
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        against = (scale * frames @ others.T).masked_fill(~negative, EXCLUDED).logsumexp(1)  # (G * T,)
        losses = [self._info_nce(frames, groups, scale, against, shift) for shift in neighbours(phases)]
        if not losses:
            return frames.sum() * 0
        return torch.stack(losses).mean(0)[counted].sum()

    @staticmethod
    def _info_nce(frames: Tensor, groups: int, scale: Tensor, against: Tensor, shift: int) -> Tensor:
        """InfoNCE of one positive against all negatives, (G * T,)."""
        positive = frames.unflatten(0, (groups, -1)).roll(shift, dims=1).flatten(0, 1)
        alike = scale * (frames * positive).sum(1)
        return torch.logaddexp(alike, against) - alike


def neighbours(phases: int) -> tuple[int, ...]:
    """Return the shifts to the neighbours of a phase: none for 1 phase, one for 2 phases, else one to each side."""
    return {1: (), 2: (1,)}.get(phases, (1, -1))


def build(options: Options) -> Contrastive:
    """Build the loss."""
    return Contrastive(options)
