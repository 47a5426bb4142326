"""Fit of the harmonic resampler to the cines of a train split: mean, principal components, quantizers, tokens."""

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from modeling.resampling.harmonic import LEVELS, TOKEN_BITS, HarmonicResampler

COUNTS = np.arange(1, LEVELS + 1)  # numbers of levels
ROUNDS = 300  # of Lloyd's iteration
SCALINGS = 5


@torch.no_grad()
def fit(resampler: HarmonicResampler, waves: Tensor) -> None:
    """Fill the buffers of a resampler.

    Args:
        resampler: to fit.
        waves: (P, SLICES, PHASES, K * token_size) float64 of P train cines, see `HarmonicResampler.waves`.
    """
    mean = waves.mean(0)
    centred = waves - mean
    flat = centred.flatten(0, 2)
    basis = torch.linalg.eigh(flat.T @ flat).eigenvectors.flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    basis = basis * torch.where(largest < 0, -1.0, 1.0)  # the sign of an eigenvector is free
    coefficients = (centred @ basis).flatten(1)
    variance = coefficients.square().mean(0)
    most = resampler.num_tokens * TOKEN_BITS
    chosen = variance.argsort(descending=True, stable=True)[:most]
    errors, points = quantizers(coefficients[:, chosen].cpu().numpy())
    resampler.mean.copy_(mean @ basis)
    resampler.basis.copy_(basis)
    for table, empty in ((resampler.index, 0), (resampler.levels, 1), (resampler.points, 0)):
        table.fill_(empty)
    for token, members in enumerate(allocate(errors, resampler.num_tokens)):
        for place, (number, levels) in enumerate(members):
            resampler.index[token, place], resampler.levels[token, place] = chosen[number], levels
            resampler.points[token, place, :levels] = torch.from_numpy(points[levels - 1][number])


def quantizers(values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Quantizers of coefficients for 1 to LEVELS levels: points for the normal distribution, scaled to the values.

    The scale begins at the standard deviation and is refined by least squares, so no quantizer is worse on these values
    than the value zero.

    Args:
        values: (P, n) n coefficients of P cines, of mean zero.

    Returns:
        Mean squared errors (n, LEVELS), and for each number of levels the points (n, levels).
    """
    errors, points = [np.square(values).mean(0)], [np.zeros((values.shape[1], 1))]
    for levels in COUNTS[1:]:
        unit = normal_points(int(levels))
        edges, scale = (unit[1:] + unit[:-1]) / 2, np.sqrt(errors[0])
        for _ in range(SCALINGS):
            steps = unit[np.searchsorted(edges, values / np.maximum(scale, np.finfo(float).tiny))]
            power = np.square(steps).mean(0)  # 0 where all values are 0 and one of the points is 0
            scale = np.maximum((values * steps).mean(0), 0) / np.where(power > 0, power, 1)
        errors.append(np.square(values - steps * scale).mean(0))
        points.append(unit * scale[:, None])
    return np.stack(errors, axis=1), points


def normal_points(levels: int) -> np.ndarray:
    """The points of the best quantizer of a standard normal variable.

    Source: Max, Quantizing for minimum distortion, 1960; Lloyd, Least squares quantization in PCM, 1982.
    """
    points = np.sqrt(3) * ndtri((np.arange(levels) + 0.5) / levels)  # the best density of many points
    for _ in range(ROUNDS):
        edges = np.concatenate([[-np.inf], (points[1:] + points[:-1]) / 2, [np.inf]])
        density = np.exp(-np.square(edges) / 2) / np.sqrt(2 * np.pi)
        points = -np.diff(density) / np.diff(ndtr(edges))
    return points


def allocate(errors: np.ndarray, num_tokens: int) -> list[list[tuple[int, int]]]:
    """Choose levels of coefficients and place them in tokens.

    The next levels go where they remove most squared error a bit. Coefficients then fill the tokens in their order.
    Room that is left is used in the same way.

    Args:
        errors: (n, LEVELS) squared errors of n coefficients for 1 to LEVELS levels, the first coefficients matter most.
        num_tokens: tokens of TOKEN_BITS bits.

    Returns:
        For each token its coefficients and their numbers of levels, whose product is at most 2 ** TOKEN_BITS.
    """
    levels, bits = np.ones(len(errors), int), float(num_tokens * TOKEN_BITS)
    steps = np.array([_best_step(row, 1, LEVELS) for row in errors])
    while steps[best := int(steps[:, 0].argmax()), 0] > 0:
        cost = float(np.log2(steps[best, 1] / levels[best]))
        if cost > bits:
            steps[best] = 0
            continue
        bits, levels[best] = bits - cost, int(steps[best, 1])
        steps[best] = _best_step(errors[best], int(levels[best]), LEVELS)
    return _place(errors, levels, num_tokens)


def _place(errors: np.ndarray, levels: np.ndarray, num_tokens: int) -> list[list[tuple[int, int]]]:
    """Place coefficients in the first token with room, drop those without, and use up the room that is left."""
    sizes, tokens = np.ones(num_tokens, int), np.full(len(levels), -1)
    for number in np.flatnonzero(levels > 1):
        free = np.flatnonzero(sizes * levels[number] <= 2**TOKEN_BITS)
        if len(free):
            tokens[number] = free[0]
            sizes[free[0]] *= levels[number]
    levels[tokens < 0] = 1
    while True:
        widest = int(sizes.argmin())
        places = np.where(tokens < 0, widest, tokens)
        most = np.minimum(levels * (2**TOKEN_BITS // sizes[places]), LEVELS)
        steps = [(*_best_step(errors[n], int(levels[n]), int(most[n])), int(n)) for n in np.flatnonzero(most > levels)]
        gain, new, best = max(steps, default=(0.0, 0, 0))
        if gain <= 0:
            break
        token = int(places[best])
        sizes[token] = sizes[token] // levels[best] * new
        tokens[best], levels[best] = token, new
    members = [np.flatnonzero(tokens == token) for token in range(num_tokens)]
    return [[(int(n), int(levels[n])) for n in of_token] for of_token in members]


def _best_step(errors: np.ndarray, levels: int, most: int) -> tuple[float, int]:
    """Squared error that the best larger number of levels removes a bit, and that number; 0 if there is none."""
    larger = COUNTS[levels:most]
    if not len(larger):
        return 0.0, 0
    gains = (errors[levels - 1] - errors[levels:most]) / np.log2(larger / levels)
    best = int(gains.argmax())
    return float(gains[best]), int(larger[best])
