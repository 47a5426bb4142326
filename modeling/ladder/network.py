"""The context model: a small network that predicts the binary decisions which make up each symbol.

    zero?    sign    exponent of the magnitude in unary    its mantissa: the first bit is predicted, others are uniform

Source: binary decisions with adaptive probabilities as in Marpe et al., CABAC, 2003; magnitudes in the gamma code of
Elias, 1975.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.ladder.context import DYNAMIC, DYNAMIC_SIZE, ENERGIES, STATIC, STATIC_SIZE, Images
from modeling.ladder.quantizer import STEPS
from utils.config.ranges import Range
from utils.ladder.pyramid import MAX_LEVELS, PASSES
from utils.ladder.symbols import DECISIONS, EXPONENTS, FIRST_BIT, LAST, PER_UNIT, PRECISION, SIGN, UNARY, ZERO

MAX_COMPONENT = 24  # later components share the embedding of this one
UNIT = 32  # an input or a hidden value of 1 is the integer 32


@dataclass
class ContextConfig:
    """Options of the context model.

    Args:
        width: channels of a layer.
        layers: number of hidden layers after the first.
    """

    width: Annotated[int, Range(8, 512)] = 64
    layers: Annotated[int, Range(1, 8)] = 2


class ContextModel(nn.Module):
    """Logits of the decisions of symbols.

    Args:
        config: its size.
    """

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        width = config.width
        self.static = nn.Linear(STATIC * STATIC_SIZE**2, width, bias=False)
        self.dynamic = nn.Linear(DYNAMIC * DYNAMIC_SIZE**2, width, bias=False)
        self.place = nn.Embedding(MAX_COMPONENT * (MAX_LEVELS + 1) * 3 * len(PASSES), width)
        self.energy = nn.Embedding(3 * ENERGIES, width)
        self.step = nn.Linear(2, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers))
        self.out = nn.Linear(width, DECISIONS)
        nn.init.normal_(self.place.weight, std=0.1)
        nn.init.normal_(self.energy.weight, std=0.1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("frequencies", frequency_table())  # stored, so that every machine has the same

    def bias(self, images: Images, step_index: int, energies: Tensor) -> Tensor:
        """Bias of the first layer by place (component, band and pass), step and energies.

        Args:
            images: of one band.
            step_index: see modeling/ladder/quantizer.py.
            energies: (n, 3) classes, from `energy_inputs`.

        Returns:
            (n, passes, width).
        """
        place = self.place(places(images))
        energy = self.energy(energies + torch.arange(3, device=energies.device) * ENERGIES).sum(1)
        return place + (energy + self.step(step_inputs(step_index).to(energy)))[:, None]

    def forward(self, static: Tensor, dynamic: Tensor, bias: Tensor) -> Tensor:
        """Logits at single positions; a decision is 1 with probability sigmoid(logit).

        Args:
            static: (m, 9 * STATIC) integers around each position.
            dynamic: (m, 25 * DYNAMIC) integers around each position.
            bias: (m, width).

        Returns:
            (m, DECISIONS).
        """
        h = self.static(static / UNIT) + self.dynamic(dynamic / UNIT) + bias
        h = F.relu(h)
        for layer in self.hidden:
            h = h + F.relu(layer(h))
        return self.out(h)


def frequency_table() -> Tensor:
    """Probability that a decision is 1 for each quantized logit, in units of 2^-PRECISION, (2 * LAST + 1,).

    They are whole numbers, carried in float32 like all weights of a checkpoint.
    """
    logits = torch.arange(-LAST, LAST + 1, dtype=torch.float64) / PER_UNIT
    scale = 1 << PRECISION
    return (scale * torch.sigmoid(logits)).round().clamp(1, scale - 1).float()


def places(images: Images) -> Tensor:
    """Rows of the embedding of component, level, orientation and pass, (n, passes)."""
    (level, orientation), _, components = images
    row = (components.clamp(max=MAX_COMPONENT - 1) * (MAX_LEVELS + 1) + level) * 3 + orientation
    return row[:, None] * len(PASSES) + torch.arange(len(PASSES), device=components.device)


def step_inputs(step_index: int) -> Tensor:
    """The step index, scaled to about -2 to 2, and its square, (2,)."""
    value = (step_index - STEPS // 2) / 128
    return torch.tensor([value, value * value])


def symbol_bits(logits: Tensor, symbols: Tensor) -> Tensor:
    """Ideal code length of symbols.

    Args:
        logits: (m, DECISIONS).
        symbols: (m,) integers.

    Returns:
        (m,) bits.
    """
    magnitudes = symbols.abs()
    nats = F.softplus(torch.where(magnitudes == 0, -logits[:, ZERO], logits[:, ZERO]))
    at = magnitudes.nonzero()[:, 0]
    if not len(at):
        return nats / math.log(2)
    logits, magnitudes = logits[at], magnitudes[at]
    exponent = torch.log2(magnitudes.double() + 0.5).floor().long()
    more = F.softplus(torch.where(symbols[at] < 0, -logits[:, SIGN], logits[:, SIGN]))
    unary, order = logits[:, UNARY : UNARY + EXPONENTS], torch.arange(EXPONENTS, device=logits.device)
    go, stop = F.softplus(-unary), F.softplus(unary)
    more = more + (stop * (exponent[:, None] == order) + go * (exponent[:, None] > order)).sum(1)
    beyond = (exponent - EXPONENTS).clamp(min=0) * go[:, -1] + stop[:, -1]  # larger exponents share the last decision
    more = more + torch.where(exponent >= EXPONENTS, beyond, 0.0)
    first = torch.where(exponent == 1, logits[:, FIRST_BIT], logits[:, FIRST_BIT + 1])
    bit = (magnitudes >> (exponent - 1).clamp(min=0)) & 1
    more = more + torch.where(exponent > 0, F.softplus(torch.where(bit == 1, -first, first)), 0.0)
    more = more + (exponent - 1).clamp(min=0) * math.log(2)
    return nats.index_add(0, at, more) / math.log(2)
