"""No conditioning: no anatomy tokens, no cross-attention, no bits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Options:
    """No options."""


class NoConditioning(nn.Module):
    """The empty conditioning; it defines the interface of all conditionings.

    Attributes:
        segmenter: a segmenter of modeling/heart/segmenter.py, or None.
        dropout: fraction of training slices without anatomy tokens.
        num_tokens: A, anatomy tokens per key frame.
        codebook_size: number of ids of an anatomy token.
        leak: text that names the ground truth that encoding needs; None for all methods.
        width: channels of the context; 0 for a decoder without cross-attention.
    """

    num_tokens = 0
    codebook_size = 0
    width = 0
    dropout = 0.0
    segmenter = None
    leak = None

    def __call__(self, key_frames: Tensor, transmitted: Tensor, masks: Tensor | None = None) -> None:
        """No context; key_frames (G, 2, 1, H, W), transmitted (G,) bool, masks (G, 2, H, W)."""
        return None

    def encode(self, key_frames: Tensor, masks: Tensor | None = None) -> Tensor:  # (N, 1, H, W), (N, H, W)
        """Anatomy token ids of ED or ES frames, (N, A)."""
        return torch.empty((len(key_frames), 0), dtype=torch.long, device=key_frames.device)

    def context(self, ids: Tensor) -> Tensor | None:  # (G, 2 * A)
        """Return the input of the decoder's cross-attention, (G, 2 * A, width), or None."""
        return None


def build(options: Options) -> NoConditioning:
    """Build the empty conditioning."""
    return NoConditioning()
