"""Anatomy tokens from the segmented ED and ES frames: A ids a key frame, sent with the image's and counted as they are.

    key frames ─► segmenter ─► soft masks, mid-level features ─► summary ─► A x FSQ ids ─► context of the decoder

The summary of a frame is what a reader would note: the soft masks on a coarse grid, the mean feature below each
structure, and morphology (area, centroid, wall thickness). Gradients of the image losses end at the summary: they train
what is said about the anatomy, never the segmenter.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.quantizer.fsq import FSQ
from modeling.segmenter import NUM_CLASSES, Segmented, Segmenter
from modeling.tokens import NOT_SENT

STRUCTURES = NUM_CLASSES - 1


@dataclass
class Options:
    """Anatomy tokens.

    Args:
        num_tokens: A, tokens a key frame.
        levels: of the finite scalar quantizer; 8 x 8 x 8 x 8 are 4096 ids.
        width: channels of the summary's network and of the context.
        mask_grid: the soft masks are pooled to so many rows and columns.
        dropout: share of training slices whose anatomy is not sent, so that the decoder works without.
        weights: a trained model whose segmenter is brought along; trained from nothing where there is none.
    """

    num_tokens: int = 4
    levels: list[int] = field(default_factory=lambda: [8, 8, 8, 8])
    width: int = 256
    mask_grid: int = 8
    dropout: float = 0.1
    weights: str | None = None


class Anatomy(NamedTuple):
    """What training sees of G slices.

    Args:
        context: (G, 2 * A, width) what the decoder attends to.
        logits: (G, 2, 4, H, W) of the segmented key frames.
    """

    context: Tensor
    logits: Tensor


class AnatomyTokens(nn.Module):
    """What was segmented, said in A ids, and their context for the decoder.

    Args:
        options: see `Options`.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.num_tokens, self.mask_grid = options.num_tokens, options.mask_grid
        self.fsq = FSQ(options.levels)
        seen = STRUCTURES * (self.mask_grid**2 + Segmenter.feature_channels + 3) + 1
        self.summary = nn.Sequential(
            nn.LayerNorm(seen),
            nn.Linear(seen, options.width),
            nn.SiLU(),
            nn.Linear(options.width, self.num_tokens * self.fsq.channels),
        )
        self.embedder = nn.Linear(self.fsq.channels, options.width)
        self.place_embed = nn.Parameter(torch.randn(2 * self.num_tokens, options.width) * 0.02)  # A of ED, A of ES
        self.not_sent = nn.Parameter(torch.zeros(options.width))

    def quantize(self, segmented: Segmented) -> tuple[Tensor, Tensor]:
        """Quantized values (N, A, C) and ids (N, A) of segmented frames."""
        z = self.summary(summarize(segmented, self.mask_grid).to(self.not_sent.dtype))
        return self.fsq(z.unflatten(1, (self.num_tokens, -1)))

    def embed(self, values: Tensor, sent: Tensor) -> Tensor:  # (G, 2 * A, C), (G, 2 * A) bool
        """Context of quantized values, (G, 2 * A, width); what was not sent has an embedding of its own."""
        tokens = self.embedder(values.to(self.not_sent.dtype))
        return torch.where(sent.unsqueeze(-1), tokens, self.not_sent.to(tokens)) + self.place_embed


class ResNet18Conditioning(nn.Module):
    """Segments key frames, and says in A tokens what it saw.

    Args:
        options: see `Options`.

    Raises:
        ValueError: for sizes below one, or a dropout that is no share.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        if min(options.num_tokens, options.width, options.mask_grid) < 1 or not 0 <= options.dropout <= 1:
            raise ValueError(
                f"model.conditioning: num_tokens {options.num_tokens}, width {options.width}, mask_grid "
                f"{options.mask_grid} and dropout {options.dropout}: expected positive sizes and a share from 0 to 1"
            )
        self.num_tokens, self.width, self.dropout = options.num_tokens, options.width, options.dropout
        self.segmenter = Segmenter()
        self.tokens = AnatomyTokens(options)
        self.codebook_size = self.tokens.fsq.codebook_size

    def forward(self, key_frames: Tensor, sent: Tensor) -> Anatomy:  # (G, 2, 1, H, W), (G,) bool
        """Context and logits of training slices; gradients flow to tokens and segmenter, not between them."""
        segmented = self.segmenter(key_frames.flatten(0, 1))
        values = self.tokens.quantize(segmented)[0].unflatten(0, key_frames.shape[:2]).flatten(1, 2)
        context = self.tokens.embed(values, sent[:, None].expand(-1, values.shape[1]))
        return Anatomy(context, segmented.logits.unflatten(0, key_frames.shape[:2]))

    def encode(self, key_frames: Tensor) -> Tensor:  # (N, 1, H, W)
        """Anatomy token ids of ED or ES frames, (N, A)."""
        return self.tokens.quantize(self.segmenter(key_frames))[1]

    def context(self, ids: Tensor) -> Tensor:  # (G, 2 * A)
        """What the decoder attends to, (G, 2 * A, width)."""
        return self.tokens.embed(self.tokens.fsq.lookup(ids.clamp(min=0)), ids != NOT_SENT)


def summarize(segmented: Segmented, grid: int) -> Tensor:
    """What the segmenter saw of each frame, (N, 3 * (grid² + features + 3) + 1), without gradient.

    Args:
        segmented: of N frames.
        grid: rows and columns to which the soft masks are pooled.
    """
    p = segmented.logits.detach().softmax(1)[:, 1:]  # (N, 3, H, W)
    features = segmented.features.detach().float()
    pooled = F.adaptive_avg_pool2d(p, grid).flatten(1)
    weight = F.interpolate(p, size=features.shape[-2:], mode="area")
    mean = torch.einsum("nshw,nfhw->nsf", weight, features) / weight.sum((2, 3)).clamp(min=1e-3).unsqueeze(-1)
    return torch.cat([pooled, mean.flatten(1), morphology(p)], dim=1)


def morphology(p: Tensor) -> Tensor:  # (N, 3, H, W) soft masks of RV, MYO, LV
    """Roots of areas (3), rows (3) and columns (3) of centroids, and the wall's thickness, in frame sides, (N, 10).

    The wall's thickness is that of the ring between two circles of the areas of LV and of LV + MYO.
    """
    share = p.mean((2, 3))  # (N, 3)
    rows, columns = (torch.linspace(-0.5, 0.5, n, device=p.device) for n in p.shape[-2:])
    total = share.clamp(min=1e-4)
    row = (p.mean(3) * rows).mean(2) / total
    column = (p.mean(2) * columns).mean(2) / total
    myo, lv = share[:, 1], share[:, 2]
    wall = ((lv + myo) / torch.pi).sqrt() - (lv / torch.pi).sqrt()
    return torch.cat([share.sqrt(), row, column, wall[:, None]], dim=1)


def build(options: Options) -> ResNet18Conditioning:
    """Build the conditioning."""
    return ResNet18Conditioning(options)
