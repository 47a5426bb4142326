"""Finite scalar quantizer: each channel is bounded and rounded to one of a few levels; there is no codebook to learn.

Source: Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, 2023, sec. 3.1.
"""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from utils.ranges import LARGEST, Levels


@dataclass
class Options:
    """`levels` a channel; an id takes one of their product."""

    levels: Levels = field(default_factory=lambda: [8, 8, 8, 8])


class FSQ(nn.Module):
    """Rounds (..., C) to C levels; the gradient passes straight through the rounding.

    Args:
        levels: how many a channel, at least 2 each.

    Raises:
        ValueError: for fewer than two levels, or more ids than can be counted.
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
        top = self.levels - 1
        place = (z.float().tanh() + 1) / 2 * top  # [0, top]: as many roundings as levels
        rounded = place.round()
        ids = (rounded.long() * self.basis).sum(-1)
        return (place + (rounded - place).detach()) * 2 / top - 1, ids

    def lookup(self, ids: Tensor) -> Tensor:  # (...)
        """The quantized values of ids, (..., C), as `forward` gave them."""
        place = ids.unsqueeze(-1) // self.basis % self.levels
        return place * 2 / (self.levels - 1) - 1


def build(options: Options) -> FSQ:
    """Build the quantizer."""
    return FSQ(options.levels)
