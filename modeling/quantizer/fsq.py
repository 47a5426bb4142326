"""Finite scalar quantizer: each channel is bounded and rounded to one of a few levels, without a learned codebook.

Source: Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, 2023, sec. 3.1.
"""

from math import prod

import torch
from torch import Tensor, nn

from utils.config.ranges import LARGEST

EPS = 1e-3  # relative widening of the interval, so that the outermost levels can be reached


class FSQ(nn.Module):
    """Round (..., C) to a few levels per channel, with a straight-through gradient.

    A channel of L levels is bounded to an interval of length L - 1 and rounded to integers. An even L has no level
    in the middle of that interval, so the interval is moved by half a level: z = 0 lies in the middle of a bin.

    Args:
        levels: number of levels of each channel, 2 or more.

    Raises:
        ValueError: for fewer than two levels, or too many ids.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        if not levels or min(levels) < 2 or prod(levels) > LARGEST:
            raise ValueError(
                f"fsq levels are {levels!s:.200}: expected at least 2 a channel, a product of {LARGEST} at most"
            )
        self.channels, self.codebook_size = len(levels), prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:  # (..., C)
        """Quantized values in [-1, 1], (..., C), and ids (...) int64."""
        half, offset = (self.levels - 1) * (1 + EPS) / 2, 0.5 * (self.levels % 2 == 0)
        bounded = (z.float() + torch.atanh(offset / half)).tanh() * half - offset
        rounded = bounded.round().clamp(-(self.levels // 2), (self.levels - 1) // 2)  # EPS of 1001 levels is half a bin
        ids = ((rounded.long() + self.levels // 2) * self.basis).sum(-1)
        return (bounded + (rounded - bounded).detach()) / (self.levels // 2), ids

    def lookup(self, ids: Tensor) -> Tensor:  # (...)
        """Return the quantized values of ids, (..., C), as in `forward`."""
        level = ids.unsqueeze(-1) // self.basis % self.levels
        return (level - self.levels // 2) / (self.levels // 2)
