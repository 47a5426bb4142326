"""Ground truth as A ids per key frame: an upper bound for studies of anatomy tokens, not a method.

    ground-truth masks of ED and ES ─► coarse grid, areas, centroids, wall thickness ─► A x FSQ ids ─► context

The ids are transmitted and counted in the bit rate, and the decoder receives the ids alone. But encoding needs the
ground truth. So the mask is a separate argument of `encode`, the model is marked with `leak`, and it is not published.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.conditioning._anatomy import NUM_STRUCTURES, SHAPE, Anatomy, AnatomyOptions, AnatomyTokens, morphology
from modeling.heart.segmenter import NUM_CLASSES
from utils.config.ranges import Pixels


@dataclass
class Options(AnatomyOptions):
    """Options beside `AnatomyOptions`.

    Args:
        mask_grid: number of rows and columns of the pooled masks.
    """

    mask_grid: Pixels = 8


class MaskConditioning(nn.Module):
    """Encodes ground-truth masks in A tokens.

    Args:
        options: see `Options`.
    """

    segmenter = None
    leak = "ground-truth masks are part of what is encoded (conditioning mask): an upper bound, not a method"

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.num_tokens, self.width, self.dropout = options.num_tokens, options.width, options.dropout
        self.mask_grid = options.mask_grid
        size = NUM_STRUCTURES * options.mask_grid**2 + SHAPE
        self.tokens = AnatomyTokens(size, options.num_tokens, options.levels, options.width)
        self.codebook_size = self.tokens.fsq.codebook_size

    def forward(self, key_frames: Tensor, transmitted: Tensor, masks: Tensor | None = None) -> Anatomy:
        """Context of training slices, from masks (G, 2, H, W) alone; transmitted is (G,) bool."""
        summary = self.summarize(require_masks(masks).flatten(0, 1)).unflatten(0, key_frames.shape[:2])
        return Anatomy(self.tokens.train_context(summary, transmitted))

    def encode(self, key_frames: Tensor, masks: Tensor | None = None) -> Tensor:  # (N, 1, H, W), (N, H, W)
        """Anatomy token ids of ED or ES frames, (N, A), from their masks alone."""
        return self.tokens.quantize(self.summarize(require_masks(masks)))[1]

    def context(self, ids: Tensor) -> Tensor:  # (G, 2 * A)
        """Return the input of the decoder's cross-attention, (G, 2 * A, width)."""
        return self.tokens.context(ids)

    def summarize(self, masks: Tensor) -> Tensor:  # (N, H, W) labels
        """Pooled masks and their morphology, (N, summary_size)."""
        p = F.one_hot(masks.long(), NUM_CLASSES).movedim(-1, 1)[:, 1:].float()
        return torch.cat([F.adaptive_avg_pool2d(p, self.mask_grid).flatten(1), morphology(p)], dim=1)


def require_masks(masks: Tensor | None) -> Tensor:
    """Return the masks; raise a ValueError if there are none."""
    if masks is None:
        raise ValueError(
            "this model encodes ground truth (conditioning mask): give encode(x, ed=..., es=..., mask=...) labels "
            "(B, H, W, D, T), or use another model"
        )
    return masks


def build(options: Options) -> MaskConditioning:
    """Build the conditioning."""
    return MaskConditioning(options)
