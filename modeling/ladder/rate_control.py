"""Choice of the step for a number of bytes or a PSNR.

Bits are nearly proportional to the number of coefficients that are not quantized to zero, and PSNR to the logarithm of
this number. Each trial of the real search corrects the proportion, so a few trials are enough.

Axes: D slices, T phases, R components, h and w of a band.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from modeling.ladder.context import Symbols, energies_of, used_components
from modeling.ladder.ladder import Analysis, Ladder
from modeling.ladder.quantizer import PER_OCTAVE, STEPS, step_size
from modeling.ladder.rate import sampled_bits

BITS_PER_SYMBOL = 6.0  # first guess, of a symbol that is not zero
BASIS_BITS, CLASS_BITS, SLICE_BYTES, VOLUME_BYTES = 6.1, 2.0, 8, 20  # of what a file holds beside the symbols
TRIALS = 5
NEAR_DB = 0.16  # above a goal; one step of the scale
DB_PER_OCTAVE = 5.0  # of the step, about
GUESSED = 200_000  # coefficients
TOLERANCE = 0.03  # of the size
ROUNDS_UP = 0.6  # symbols above this many steps are not zero after the search
SAMPLED = 20_000  # positions of a band
SymbolsAt = Callable[[int], Symbols]


def index_for_bytes(ladder: Ladder, analysis: Analysis, total: float, symbols_at: SymbolsAt) -> tuple[int, Symbols]:
    """Find the step at which the tokens have a given number of bytes, or a little less.

    Args:
        ladder: the model.
        analysis: of the cine.
        total: bytes of all tokens of all frames.
        symbols_at: symbols of a step index.

    Returns:
        The step index, and its symbols.

    Raises:
        ValueError: when the smallest tokens are larger.
    """
    sizes = np.sort(torch.cat([band.abs().flatten() for level in analysis.pyramid for band in level]).cpu().numpy())
    steps = np.array([step_size(index) for index in range(STEPS)])
    counts = len(sizes) - np.searchsorted(sizes, ROUNDS_UP * steps)  # of symbols that are not zero, by step; falling
    bytes_per_symbol = BITS_PER_SYMBOL / 8
    best: tuple[float, int, Symbols] | None = None  # bytes, step index, symbols
    index, tried = -1, set[int]()
    for trial in range(2 * TRIALS):
        guess = min(int(np.searchsorted(-counts * bytes_per_symbol, -total)), STEPS - 1)
        if trial < TRIALS and guess not in tried:
            index = guess
        elif best is None and index < STEPS - 1:  # the proportion does not converge: small steps towards fewer bytes
            index = min(max(tried) + 1 + trial, STEPS - 1)
        else:
            break
        tried.add(index)
        symbols = symbols_at(index)
        size = token_bytes(ladder, analysis, symbols, index)
        bytes_per_symbol = size / max(1, int(counts[index]))
        if size <= total and (best is None or size > best[0]):
            best = size, index, symbols
        if (1 - TOLERANCE) * total <= size <= total:
            break
    if best is None:
        frames = len(analysis.pyramid[0][0]) * len(analysis.ids)
        raise ValueError(
            f"{total / frames:g} bytes a frame are too few: the tokens of this cine take about {size / frames:.1f} "
            "at the largest step"
        )
    return best[1], best[2]


def token_bytes(ladder: Ladder, analysis: Analysis, symbols: Symbols, step_index: int) -> float:
    """Estimate the bytes of tokens in a file, without its header."""
    energies, phases = energies_of(symbols), len(analysis.ids)
    with torch.no_grad():
        device = ladder.context.out.weight.device
        bits = float(sampled_bits(ladder.context, symbols, step_index, energies.to(device), SAMPLED, 0))
    bits += BASIS_BITS * phases * used_components(energies) + CLASS_BITS * int((energies > 0).sum())
    return bits / 8 + SLICE_BYTES * len(symbols[0][0]) + VOLUME_BYTES


def index_for_psnr(
    ladder: Ladder, analysis: Analysis, cine: Tensor, goal: float, symbols_at: SymbolsAt
) -> tuple[int, Symbols]:
    """Find the largest step whose mean PSNR over frames is not below a goal.

    Args:
        ladder: the model.
        analysis: of the cine.
        cine: (D, T, H, W) in [0, 1].
        goal: in dB.
        symbols_at: symbols of a step index.

    Returns:
        The step index, and its symbols.

    Raises:
        ValueError: when the finest step does not reach the goal.
    """
    tried: dict[int, tuple[float, Symbols]] = {}

    def at(index: int) -> float:
        if index not in tried:
            symbols = symbols_at(index)
            rank = max(1, used_components(energies_of(symbols)))  # the components that a file holds
            kept = [[band[:, :rank] for band in level] for level in symbols]
            decoded = ladder.synthesise(kept, analysis.basis[:, :rank], index, analysis.region)
            tried[index] = (mean_psnr(cine, decoded), symbols)
        return tried[index][0]

    index = _guess(analysis, goal)
    for _ in range(TRIALS):
        missing = goal - at(index)
        if -NEAR_DB <= missing <= 0:
            break
        change = math.floor(-(missing + NEAR_DB / 2) * PER_OCTAVE / DB_PER_OCTAVE)
        following = min(max(index + (change or -1), 0), STEPS - 1)
        if following in tried:
            break
        index = following
    while max(value for value, _ in tried.values()) < goal:
        if index == 0:
            raise ValueError(f"{goal:g} dB cannot be reached: the finest step gives {at(0):.2f} dB")
        index = max(0, min(tried) - 2 ** len(tried))
        at(index)
    best = max(i for i, (value, _) in tried.items() if value >= goal)
    return best, tried[best][1]


def _guess(analysis: Analysis, goal: float) -> int:
    """The step at which plain quantization of a sample of coefficients has this PSNR."""
    flat = torch.cat([band.abs().flatten() for level in analysis.pyramid for band in level])
    flat = flat[:: max(1, len(flat) // GUESSED)]
    allowed = 10 ** (-goal / 10)  # squared error a pixel; the transforms are orthonormal, up to a few percent
    share = analysis.basis.shape[1] / analysis.basis.shape[0]
    for index in range(0, STEPS, 4):
        step = step_size(index)
        rounded = torch.where(flat < ROUNDS_UP * step, 0.0, (flat / step).round() * step)
        if float((flat - rounded).square().mean()) * share > allowed:
            return max(0, index - 4)
    return STEPS - 1


def mean_psnr(cine: Tensor, decoded: Tensor) -> float:
    """Mean over frames (D, T, H, W), each at most 100 dB."""
    error = (cine - decoded).square().mean((2, 3)).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())
