"""Rate-distortion optimised quantization: a symbol is moved towards zero if that lowers the cost.

The cost is error² + weight * bits, with the error in units of the step and the bits of the context model. Each non-zero
symbol is compared with its neighbour towards zero. A choice changes the inputs of other symbols, so the search is
repeated.

Axes: D slices, R components, h and w of a band.

Source: Sullivan and Wiegand, Rate-distortion optimization for video compression, 1998.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from modeling.ladder.context import Images, Known, Positions, Symbols, energies_of, energy_inputs, images_of
from modeling.ladder.integer import IntegerContext
from modeling.ladder.quantizer import quantize, step_size
from modeling.ladder.rate import bits_at
from modeling.ladder.wavelet import Pyramid
from utils.ladder.pyramid import band_ids

WEIGHT = 0.115  # of a bit, in squared steps
ROUNDS = 2
PIXELS = 1 << 19  # at a time


def searched_symbols(
    context: IntegerContext, pyramid: Pyramid, step_index: int, weight: float = WEIGHT, rounds: int = ROUNDS
) -> Symbols:
    """Quantize a volume by rate-distortion optimisation.

    Args:
        context: the integer context model.
        pyramid: coefficients (D, R, h, w) of each band.
        step_index: see modeling/ladder/quantizer.py.
        weight: squared steps that a bit is worth; 0 rounds to the nearest.
        rounds: repetitions of the search.

    Returns:
        Integers of the same shapes.
    """
    step = step_size(step_index)
    symbols = [[quantize(band, step, 0.5) for band in level] for level in pyramid]
    for _ in range(rounds if weight else 0):
        known, energies = Known.of(symbols), energies_of(symbols).to(context.device)
        inputs = energy_inputs(energies)
        changed = [[band.clone() for band in level] for level in symbols]
        for row, band in enumerate(band_ids(len(symbols) - 1)):
            plane, target = (levels[band.level][band.orientation] for levels in (symbols, changed))
            exact = pyramid[band.level][band.orientation]
            for images in in_parts(images_of(band, len(plane), energies[row].nonzero()[:, 0]), plane[0, 0].numel()):
                at = Positions(*plane[images.slices, images.components].nonzero().unbind(1))
                here = (images.slices[at.image], images.components[at.image], at.row, at.column)
                stays = plane[here]
                moves = stays - stays.sign()
                bias = context.bias(images, step_index, inputs[row][images.components])
                bits = bits_at(context.real_logits, known, images, bias, at, [stays, moves])
                values = exact[here] / step
                costs = [(values - q).square() + weight * b for q, b in zip((stays, moves), bits, strict=True)]
                target[here] = torch.where(costs[1] < costs[0], moves, stays)
        symbols = changed
    return symbols


def in_parts(images: Images, pixels: int) -> Iterator[Images]:
    """Yield images a few at a time, so that their inputs take little memory."""
    most = max(1, PIXELS // max(1, pixels))
    for start in range(0, len(images.slices), most):
        yield Images(images.band, images.slices[start : start + most], images.components[start : start + most])
