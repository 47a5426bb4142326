"""Anatomy tokens from segmented ED and ES frames: A ids per key frame, transmitted and counted in the bit rate.

    key frames ─► segmenter ─► soft masks, mid-level features ─► summary ─► A x FSQ ids ─► context of the decoder

The summary of a frame holds the soft masks on a coarse grid, the mean feature of each structure, and morphology (area,
centroid, wall thickness). Gradients of the image losses stop at the summary: they train the anatomy tokens, not the
segmenter.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.conditioning._anatomy import NUM_STRUCTURES, SHAPE, Anatomy, AnatomyOptions, AnatomyTokens, morphology
from modeling.heart.segmenter import FrameSegmenter, Segmented
from utils.config.ranges import Pixels


@dataclass
class Options(AnatomyOptions):
    """Options beside `AnatomyOptions`.

    Args:
        mask_grid: number of rows and columns of the pooled soft masks.
        weights: a trained model whose segmenter is loaded; None for random initial weights.
        mirror: labels are those of the mean probability of each frame and its mirror image, for a segmenter that was
            trained with `dataset.augment.flip`.
    """

    mask_grid: Pixels = 8
    weights: str | None = None
    mirror: bool = False


class SegmentedConditioning(nn.Module):
    """Segments key frames and summarizes each of them in A tokens.

    Args:
        options: see `Options`.
        segmenter: network of the key frames.
    """

    leak = None

    def __init__(self, options: Options, segmenter: FrameSegmenter) -> None:
        super().__init__()
        self.num_tokens, self.width, self.dropout = options.num_tokens, options.width, options.dropout
        self.mask_grid = options.mask_grid
        self.segmenter = segmenter
        self.segmenter.mirror = options.mirror
        size = NUM_STRUCTURES * (options.mask_grid**2 + segmenter.feature_channels) + SHAPE
        self.tokens = AnatomyTokens(size, options.num_tokens, options.levels, options.width)
        self.codebook_size = self.tokens.fsq.codebook_size

    def forward(self, key_frames: Tensor, transmitted: Tensor, masks: Tensor | None = None) -> Anatomy:
        """Return context and logits of slices (G, 2, 1, H, W); no gradient flows from the context to the segmenter."""
        segmented = self.segmenter.recomputed(key_frames.flatten(0, 1))
        summary = summarize(segmented, self.mask_grid).unflatten(0, key_frames.shape[:2])
        return Anatomy(
            self.tokens.train_context(summary, transmitted), segmented.logits.unflatten(0, key_frames.shape[:2])
        )

    def encode(self, key_frames: Tensor, masks: Tensor | None = None) -> Tensor:  # (N, 1, H, W)
        """Anatomy token ids of ED or ES frames, (N, A)."""
        return self.tokens.quantize(summarize(self.segmenter(key_frames), self.mask_grid))[1]

    def context(self, ids: Tensor) -> Tensor:  # (G, 2 * A)
        """Return the input of the decoder's cross-attention, (G, 2 * A, width)."""
        return self.tokens.context(ids)


def summarize(segmented: Segmented, grid: int) -> Tensor:
    """Summary of segmented frames, (N, 3 * (grid² + features + 3) + 1), without gradient.

    Args:
        segmented: output of the segmenter for N frames.
        grid: rows and columns to which the soft masks are pooled.
    """
    p = segmented.logits.detach().softmax(1)[:, 1:]  # (N, 3, H, W)
    features = segmented.features.detach().float()
    pooled = F.adaptive_avg_pool2d(p, grid).flatten(1)
    weight = F.interpolate(p, size=features.shape[-2:], mode="area")
    mean = torch.einsum("nshw,nfhw->nsf", weight, features) / weight.sum((2, 3)).clamp(min=1e-3).unsqueeze(-1)
    return torch.cat([pooled, mean.flatten(1), morphology(p)], dim=1)
