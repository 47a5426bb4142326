"""Shared code of the conditionings: the summary of a key frame as A ids, and their context for the decoder."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from modeling.quantizer.fsq import FSQ
from utils.config.ranges import Fraction, Levels, Tokens, Width
from utils.labels import STRUCTURES
from utils.layout import NOT_TRANSMITTED

NUM_STRUCTURES = len(STRUCTURES)
SHAPE = 3 * NUM_STRUCTURES + 1  # numbers of `morphology`


@dataclass
class AnatomyOptions:
    """Options of every conditioning with anatomy tokens.

    Args:
        num_tokens: A, tokens a key frame.
        levels: levels of the finite scalar quantizer; 8 x 8 x 8 x 8 are 4096 ids.
        width: channels of the network of the summary and of the context.
        dropout: fraction of training slices without anatomy tokens, so that the decoder also works without them.
    """

    num_tokens: Tokens = 4
    levels: Levels = field(default_factory=lambda: [8, 8, 8, 8])
    width: Width = 256
    dropout: Fraction = 0.1


class Anatomy(NamedTuple):
    """Output of a conditioning in training, of G slices.

    Args:
        context: (G, 2 * A, width) input of the decoder's cross-attention.
        logits: (G, 2, 4, H, W) of the segmented key frames; None without a segmenter.
    """

    context: Tensor
    logits: Tensor | None = None


class AnatomyTokens(nn.Module):
    """A summary of a key frame in A ids of a finite scalar quantizer, and their context for the decoder.

    Args:
        summary_size: length of the summary.
        num_tokens: A, tokens a key frame.
        levels: levels of the quantizer.
        width: channels of the summary's network and of the context.
    """

    def __init__(self, summary_size: int, num_tokens: int, levels: list[int], width: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.fsq = FSQ(levels)
        self.summary = nn.Sequential(
            nn.LayerNorm(summary_size),
            nn.Linear(summary_size, width),
            nn.SiLU(),
            nn.Linear(width, num_tokens * self.fsq.channels),
        )
        self.embedder = nn.Linear(self.fsq.channels, width)
        self.place_embed = nn.Parameter(torch.randn(2 * num_tokens, width) * 0.02)  # A of ED, A of ES
        self.not_sent = nn.Parameter(torch.zeros(width))

    def quantize(self, summary: Tensor) -> tuple[Tensor, Tensor]:  # (N, summary_size)
        """Quantized values (N, A, C) and ids (N, A)."""
        return self.fsq(self.summary(summary.to(self.not_sent.dtype)).unflatten(1, (self.num_tokens, -1)))

    def train_context(self, summary: Tensor, transmitted: Tensor) -> Tensor:  # (G, 2, summary_size), (G,) bool
        """Context of the summaries of ED and ES, (G, 2 * A, width)."""
        values = self.quantize(summary.flatten(0, 1))[0].unflatten(0, summary.shape[:2]).flatten(1, 2)
        return self.embed(values, transmitted[:, None].expand(-1, values.shape[1]))

    def context(self, ids: Tensor) -> Tensor:  # (G, 2 * A)
        """Context of ids, (G, 2 * A, width)."""
        return self.embed(self.fsq.lookup(ids.clamp(min=0)), ids != NOT_TRANSMITTED)

    def embed(self, values: Tensor, transmitted: Tensor) -> Tensor:  # (G, 2 * A, C), (G, 2 * A) bool
        """Embed quantized values, (G, 2 * A, width); tokens that are not transmitted share one learned embedding."""
        tokens = self.embedder(values.to(self.not_sent.dtype))
        return torch.where(transmitted.unsqueeze(-1), tokens, self.not_sent.to(tokens)) + self.place_embed


def morphology(p: Tensor) -> Tensor:  # (N, 3, H, W) soft masks of RV, MYO, LV
    """Return roots of areas (3), rows (3) and columns (3) of centroids, and wall thickness, in frame sides, (N, 10).

    The wall thickness is that of a ring between two circles with the areas of LV and of LV + MYO.
    """
    share = p.mean((2, 3))  # (N, 3)
    rows, columns = (torch.linspace(-0.5, 0.5, n, device=p.device) for n in p.shape[-2:])
    total = share.clamp(min=1e-4)
    row = (p.mean(3) * rows).mean(2) / total
    column = (p.mean(2) * columns).mean(2) / total
    myo, lv = share[:, 1], share[:, 2]
    wall = ((lv + myo) / torch.pi).sqrt() - (lv / torch.pi).sqrt()
    return torch.cat([share.sqrt(), row, column, wall[:, None]], dim=1)
