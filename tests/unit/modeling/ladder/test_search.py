"""The search of symbols moves them towards zero where that saves more bits than it costs in error."""

import pytest
import torch
from torch import Tensor

from modeling.ladder import search
from modeling.ladder.context import Known, Positions, Symbols, energies_of, energy_inputs, images_of
from modeling.ladder.quantizer import quantize, step_size
from modeling.ladder.rate import bits_at, sampled_bits
from modeling.ladder.search import WEIGHT, searched_symbols
from modeling.ladder.wavelet import Pyramid
from tests.ladders import smooth_cine, trained_ladder
from utils.ladder.pyramid import band_ids

INDEX = 214


def pyramid(seed: int = 50) -> Pyramid:
    return trained_ladder().ladder.analyse(smooth_cine(2, 5, 21, 30, seed)).pyramid


def flat(symbols: Symbols) -> Tensor:
    return torch.cat([band.flatten() for level in symbols for band in level])


def costs(symbols: Symbols, around: Symbols, weight: float) -> Tensor:
    """Error in squared steps and weighted bits of each symbol, in bands with symbols, where all others are `around`."""
    context, values, parts = trained_ladder().ladder.coder().context, pyramid(), []
    known, energies = Known.of(around), energies_of(around)
    for row, band in enumerate(band_ids(len(symbols) - 1)):
        images = images_of(band, 2, energies[row].nonzero()[:, 0])
        where = (images.slices, images.components)
        chosen = symbols[band.level][band.orientation][where]
        at = Positions(*torch.ones_like(chosen).nonzero().unbind(1))
        bias = context.bias(images, INDEX, energy_inputs(energies)[row][images.components])
        (bits,) = bits_at(context.real_logits, known, images, bias, at, [chosen.flatten()])
        exact = values[band.level][band.orientation][where] / step_size(INDEX)
        parts.append((exact - chosen).square().flatten() + weight * bits)
    return torch.cat(parts)


@pytest.mark.parametrize("rounds", [0, 1])
@pytest.mark.parametrize("weight", [0.02, WEIGHT, 0.5])
def test_a_round_never_increases_error_and_weighted_bits(weight: float, rounds: int) -> None:
    context = trained_ladder().ladder.coder().context
    before, after = (searched_symbols(context, pyramid(), INDEX, weight, n) for n in (rounds, rounds + 1))
    old, new = costs(before, before, weight), costs(after, before, weight)
    assert (new <= old + 1e-5).all() and new.sum() < old.sum()


def test_no_weight_and_no_round_round_to_the_nearest() -> None:
    context = trained_ladder().ladder.coder().context
    nearest = torch.cat([quantize(b, step_size(INDEX), 0.5).flatten() for level in pyramid() for b in level])
    assert torch.equal(flat(searched_symbols(context, pyramid(), INDEX, weight=0)), nearest)
    assert torch.equal(flat(searched_symbols(context, pyramid(), INDEX, rounds=0)), nearest)


def test_a_round_moves_a_symbol_by_at_most_one_and_towards_zero() -> None:
    context = trained_ladder().ladder.coder().context
    nearest = flat(searched_symbols(context, pyramid(), INDEX, weight=0))
    for rounds in (1, 2):
        found = flat(searched_symbols(context, pyramid(), INDEX, rounds=rounds))
        moved = (nearest.abs() - found.abs())[nearest != found]
        assert len(moved) and moved.min() >= 1 and moved.max() <= rounds
        assert (found * nearest >= 0).all()


def test_a_larger_weight_takes_fewer_bits_and_leaves_a_larger_error() -> None:
    context, bits, errors = trained_ladder().ladder.coder().context, [], []
    exact = flat(pyramid()) / step_size(INDEX)
    for weight in (0, 0.05, WEIGHT, 0.3):
        symbols = searched_symbols(context, pyramid(), INDEX, weight)
        model = trained_ladder().ladder.context
        bits.append(float(sampled_bits(model, symbols, INDEX, energies_of(symbols), 10**9, 0)))
        errors.append(float((flat(symbols) - exact).square().sum()))
    assert bits == sorted(bits, reverse=True) and errors == sorted(errors)
    assert bits[2] < 0.97 * bits[0]


def test_a_few_images_at_a_time_give_the_same_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    context = trained_ladder().ladder.coder().context
    expected = flat(searched_symbols(context, pyramid(), INDEX))
    monkeypatch.setattr(search, "PIXELS", 1)
    assert torch.equal(flat(searched_symbols(context, pyramid(), INDEX)), expected)


def test_a_pyramid_of_zeros_stays_zero() -> None:
    zeros = [[torch.zeros_like(band) for band in level] for level in pyramid()]
    assert not flat(searched_symbols(trained_ladder().ladder.coder().context, zeros, INDEX)).any()
