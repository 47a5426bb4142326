"""Code length of symbols under the context model, exact or estimated from a sample of positions.

Most coefficients are zeros among zeros and cost very few bits. For training, positions are therefore drawn at random,
with a higher probability where the inputs around them are larger. The bits of a position are divided by its
probability, so the estimate has no bias.

Axes: D slices, R components, n images of a band, m positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.ladder.context import (
    Images,
    Known,
    Positions,
    Symbols,
    energy_inputs,
    framed_logs,
    framed_static,
    images_of,
    neighbours,
    static_windows,
)
from modeling.ladder.network import ContextModel, symbol_bits
from utils.ladder.pyramid import band_ids

LEAST_SHARE = 0.03  # of the largest probability of a position
CHUNK = 1 << 14  # positions at a time


def sampled_bits(
    model: ContextModel, symbols: Symbols, step_index: int, energies: Tensor, per_band: int, seed: int
) -> Tensor:
    """Estimate the bits of a volume with gradients to the weights.

    Args:
        model: the context model.
        symbols: of the slices to measure.
        step_index: see modeling/ladder/quantizer.py.
        energies: (bands, R) of the volume.
        per_band: about how many positions are drawn in each band; its images are limited to ten times as many.
        seed: a whole number.

    Returns:
        The sum over all symbols, a scalar.
    """
    random = torch.Generator().manual_seed(seed)
    known, inputs, parts = Known.of(symbols), energy_inputs(energies), []
    device = energies.device
    for row, band in enumerate(band_ids(len(symbols) - 1)):
        components = energies[row].nonzero()[:, 0]
        plane = symbols[band.level][band.orientation]
        if not len(components) or not plane.numel():
            continue
        images, share = images_of(band, len(plane), components), 1.0
        most = max(1, 10 * per_band // plane[0, 0].numel())
        if most < len(images.slices):
            chosen = torch.randperm(len(images.slices), generator=random)[:most].to(device)
            share = most / len(images.slices)
            images = Images(band, images.slices[chosen], images.components[chosen])
        static, logs = known.static(images), known.band(images)
        near = F.max_pool2d(logs.abs()[:, None], 3, 1, 1)[:, 0]
        interest = ((static.abs().sum(-1) + 4 * near) / 64).clamp(LEAST_SHARE, 1)
        chance = (interest * (per_band / interest.sum())).clamp(max=1)
        drawn = torch.rand(chance.shape, generator=random).to(device) < chance
        at = Positions(*drawn.nonzero().unbind(1))
        bias = model.bias(images, step_index, inputs[row][images.components])[at.image, at.passes()]
        parts.append(
            (
                static_windows(framed_static(static), at),
                neighbours(framed_logs(logs), at),
                bias,
                plane[images.slices[at.image], images.components[at.image], at.row, at.column],
                1 / (share * chance[at.image, at.row, at.column]),
            )
        )
    if not parts:
        return model.out.bias.sum() * 0
    around, inside, bias, values, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    return (symbol_bits(model(around, inside, bias), values) * weight).sum()


Logits = Callable[[Tensor, Tensor, Tensor], Tensor]


def bits_at(
    logits: Logits, known: Known, images: Images, bias: Tensor, at: Positions, candidates: list[Tensor]
) -> list[Tensor]:
    """Return the bits of candidate symbols at positions of a band, with all other symbols unchanged.

    Args:
        logits: of windows and bias, such as a context model.
        known: all symbols.
        images: of the band.
        bias: (n, passes, width) of the images.
        at: the positions.
        candidates: (m,) integers each.

    Returns:
        (m,) bits for each candidate.
    """
    static, logs = framed_static(known.static(images)), framed_logs(known.band(images))
    collected: list[list[Tensor]] = [[] for _ in candidates]
    for start in range(0, len(at.image), CHUNK):
        part = Positions(*(index[start : start + CHUNK] for index in at))
        values = logits(static_windows(static, part), neighbours(logs, part), bias[part.image, part.passes()])
        for bits, candidate in zip(collected, candidates, strict=True):
            bits.append(symbol_bits(values, candidate[start : start + CHUNK]))
    return [torch.cat(bits) if bits else logs.new_zeros(0) for bits in collected]
