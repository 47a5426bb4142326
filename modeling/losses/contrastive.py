"""Contrastive: a frame's latents are nearer to its neighbours in the cycle than to another patient's.

InfoNCE over the encoder's latents before projection, a mean over the K tokens of a frame, seen through a projection
head that belongs to this term and is no part of the model. Positives are the phases before and after, around the cycle;
negatives all frames of other patients, on all ranks. Other frames of the same patient are neither: they are alike.

Source: van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018, eq. 4; projection head as
in Chen et al., SimCLR, 2020; learned temperature as in Radford et al., CLIP, 2021.
"""

from dataclasses import dataclass
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.prediction import Prediction, have
from utils.ranks import gather_rows
from utils.types import Batch

LARGEST_SCALE = 100.0  # 1 / temperature, clamped as CLIP's
NEVER = -1e4  # a similarity that counts nothing; minus infinity would make gradients of lone patients NaN


@dataclass
class Options:
    """The term.

    Args:
        weight: of the term.
        width: E, of the encoder's latents.
        dim: of the projected frames.
        temperature: to start with; it is learned.
    """

    weight: float = 0.1
    width: int = 1024
    dim: int = 128
    temperature: float = 0.1


class Contrastive(nn.Module):
    """A mean over frames that have a neighbour and a stranger; log(1 + negatives) where nothing is told apart."""

    needs = ("encoder",)

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.weight, self.width = options.weight, options.width
        self.head = nn.Sequential(
            nn.LayerNorm(options.width),
            nn.Linear(options.width, options.width),
            nn.GELU(),
            nn.Linear(options.width, options.dim),
        )
        self.log_scale = nn.Parameter(torch.tensor(log(1 / options.temperature)))

    def forward(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sum over frames, and how many have a neighbour and a stranger."""
        latents = have(prediction.latents, "an encoder that runs (model.decoder titok, no dataset.tokens)")
        groups, phases, _, width = latents.shape
        if width != self.width:
            raise ValueError(
                f"losses.contrastive.width is {self.width}, but the encoder's latents have {width} channels; set it so"
            )
        pooled = latents.mean(2).flatten(0, 1).float()
        frames = F.normalize(self.head(pooled), dim=1)  # (G * T, dim)
        patient = batch.patient.repeat_interleave(groups // len(batch.patient) * phases)
        there = batch.frames()
        others, owners = gather_rows(frames[there]), gather_rows(patient[there])
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        strange = patient[:, None] != owners[None]
        against = (scale * frames @ others.T).masked_fill(~strange, NEVER).logsumexp(1)  # (G * T,)
        losses = [self._pull(frames, groups, scale, against, shift) for shift in neighbours(phases)]
        if not losses:
            return frames.sum() * 0, torch.zeros((), device=frames.device)
        count = there & strange.any(1)
        return torch.stack(losses).mean(0)[count].sum(), count.sum()

    @staticmethod
    def _pull(frames: Tensor, groups: int, scale: Tensor, against: Tensor, shift: int) -> Tensor:
        """-log of a neighbour's share among it and the strangers, (G * T,)."""
        near = frames.unflatten(0, (groups, -1)).roll(shift, dims=1).flatten(0, 1)
        alike = scale * (frames * near).sum(1)
        return torch.logaddexp(alike, against) - alike


def neighbours(phases: int) -> tuple[int, ...]:
    """Which way the neighbours of a phase lie: none, one that is both, or the one before and the one after."""
    return {1: (), 2: (1,)}.get(phases, (1, -1))


def build(options: Options) -> Contrastive:
    """Build the term.

    Raises:
        ValueError: for sizes or a temperature that are not positive.
    """
    for name in ("width", "dim", "temperature"):
        if not getattr(options, name) > 0:
            raise ValueError(f"losses.contrastive.{name} is {getattr(options, name)}: expected a positive number")
    return Contrastive(options)
