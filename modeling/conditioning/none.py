"""No conditioning: no anatomy tokens, no cross-attention, no bits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Options:
    """No conditioning has no options."""


class NoConditioning(nn.Module):
    """The interface of every conditioning, with nothing behind it.

    Attributes:
        segmenter: modeling/heart/segmenter.py's, where the conditioning has one.
        dropout: share of training slices whose anatomy is not transmitted.
        num_tokens: A, anatomy tokens a key frame.
        codebook_size: ids an anatomy token can take.
        leak: which ground truth encoding needs, in words; None in every method.
        width: channels of the context that the decoder attends to; 0 leaves cross-attention out of the decoder.
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
        """What the decoder attends to, (G, 2 * A, width), or None."""
        return None


def build(options: Options) -> NoConditioning:
    """Build the empty conditioning."""
    return NoConditioning()
