"""The context model sees only what is coded before, as whole numbers."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling.ladder.context import (
    DYNAMIC_SIZE,
    ENERGIES,
    TOP,
    Known,
    Positions,
    energies_of,
    energy_class,
    energy_inputs,
    framed_logs,
    framed_static,
    images_of,
    known_masks,
    log_symbols,
    neighbours,
    static_windows,
)
from modeling.ladder.session import Session
from tests.ladders import as_tensors, fixed_ladder, random_symbols
from utils.ladder.pyramid import PASSES, BandId, band_ids, band_shapes

SIZE, RANK = (17, 22), 3
Symbols = list[list[Tensor]]


class Place(NamedTuple):
    """What is coded at a time."""

    component: int
    band: BandId
    number: int


def places() -> Iterator[Place]:
    """All places of a volume in coding order."""
    for component in range(RANK):
        for band in band_ids(len(band_shapes(*SIZE)) - 1):
            for number in range(len(PASSES)):
                yield Place(component, band, number)


ORDER = list(places())


def inputs_at(symbols: Symbols, place: Place) -> Tensor:
    """All inputs of the network at a place, of all slices."""
    known = Known.of(symbols)
    images = images_of(place.band, len(symbols[0][0]), torch.tensor([place.component]))
    logs = known.band(images)
    row, column = PASSES[place.number]
    chosen = torch.zeros(logs.shape)
    chosen[:, row::2, column::2] = 1
    at = Positions(*chosen.nonzero().unbind(1))
    assert (at.passes() == place.number).all()
    return torch.cat([static_windows(framed_static(known.static(images)), at), neighbours(framed_logs(logs), at)], 1)


def changed_from(symbols: Symbols, first: int, seed: int) -> Symbols:
    """Other symbols at all places from ORDER[first] on."""
    other = as_tensors(random_symbols(SIZE, 2, RANK, seed, spread=9.0))
    same = [[band.clone() for band in level] for level in symbols]
    for place in ORDER[first:]:
        (level, orientation), (row, column) = place.band, PASSES[place.number]
        where = (slice(None), place.component, slice(row, None, 2), slice(column, None, 2))
        same[level][orientation][where] = other[level][orientation][where]
    return same


def some_symbols(seed: int = 0) -> Symbols:
    return as_tensors(random_symbols(SIZE, 2, RANK, seed, spread=4.0))


@pytest.mark.parametrize("first", range(0, len(ORDER), 3))
def test_no_input_depends_on_a_symbol_that_is_coded_at_its_place_or_later(first: int) -> None:
    symbols, place = some_symbols(), ORDER[first]
    other = changed_from(symbols, first, seed=1)
    assert any((a != b).any() for u, v in zip(symbols, other, strict=True) for a, b in zip(u, v, strict=True))
    assert torch.equal(inputs_at(other, place), inputs_at(symbols, place))


@pytest.mark.parametrize("first", [5, 14, 29, 47, len(ORDER) - 1])
def test_inputs_depend_on_what_was_coded_before(first: int) -> None:
    symbols, place = some_symbols(), ORDER[first]
    assert not torch.equal(inputs_at(some_symbols(3), place), inputs_at(symbols, place))


def test_no_input_of_a_slice_depends_on_another_slice() -> None:
    symbols = some_symbols()
    other = [[torch.cat([band[:1], 7 - band[1:]]) for band in level] for level in symbols]
    for place in ORDER:
        own, changed = inputs_at(symbols, place), inputs_at(other, place)
        half = len(own) // 2
        assert torch.equal(own[:half], changed[:half])


def test_all_inputs_are_whole_numbers_of_at_most_127() -> None:
    symbols = [[1000 * band for band in level] for level in some_symbols()]
    for place in ORDER[::5]:
        inputs = inputs_at(symbols, place)
        assert torch.equal(inputs, inputs.round()) and inputs.abs().max() <= TOP


def test_what_grows_band_by_band_is_what_all_symbols_give() -> None:
    symbols = some_symbols()
    symbols[2][1][:, 1] = 0
    whole, known = Known.of(symbols), Known(band_shapes(*SIZE), 2, RANK, torch.device("cpu"))
    for component in range(RANK):
        for band in band_ids(len(symbols) - 1):
            images = images_of(band, 2, torch.tensor([component]))
            assert torch.equal(known.static(images), whole.static(images))
            values = symbols[band.level][band.orientation][:, component]
            for number, (row, column) in enumerate(PASSES if values.any() else ()):
                known.add(band, component, number, values[:, row::2, column::2])
            known.close(band, component)


def test_an_input_is_the_logarithm_of_a_symbol_rounded_down_in_whole_numbers() -> None:
    symbols = torch.arange(-300, 301)
    logs = log_symbols(symbols)
    assert torch.equal(logs, -logs.flip(0)) and logs[300] == 0 and logs.abs().max() == TOP
    for q, log in zip(symbols.tolist()[301:], logs.tolist()[301:], strict=True):
        n = int(log)
        assert n == log and 2**n <= (1 + q) ** 16 and (n == TOP or (1 + q) ** 16 < 2 ** (n + 1))
    assert log_symbols(torch.tensor([1 << 24, -(1 << 24)])).tolist() == [TOP, -TOP]


def test_each_pass_knows_the_neighbours_of_the_passes_before_it() -> None:
    masks = known_masks(torch.device("cpu"))
    assert masks.sum(1).tolist() == [0, 4, 12, 16]  # of a window of 5 x 5
    middle = DYNAMIC_SIZE**2 // 2
    assert not masks[:, middle].any()
    assert torch.equal(masks, masks.flip(1))  # neighbours on both sides


def test_the_passes_code_every_position_once() -> None:
    count = np.zeros((7, 10), int)
    for row, column in PASSES:
        count[row::2, column::2] += 1
    assert (count == 1).all()


def test_beyond_the_border_nothing_is_known() -> None:
    logs = torch.ones(1, 6, 6)
    for number, (row, column) in enumerate(PASSES):
        inside = Positions(torch.tensor([0]), torch.tensor([2 + row]), torch.tensor([2 + column]))
        corner = Positions(torch.tensor([0]), torch.tensor([4 + row]), torch.tensor([4 + column]))
        counts = [neighbours(framed_logs(logs), at).view(3, 25).sum(1).tolist() for at in (inside, corner)]
        known = [0, 4, 12, 16][number]
        assert counts[0] == [known, known, TOP * known]
        n = counts[1][0]
        assert counts[1] == [n, n, TOP * n] and (n < known or not known)


def test_the_class_of_a_band_is_the_logarithm_of_its_mean_magnitude() -> None:
    assert energy_class(0, 100) == 0
    for total, count in [(1, 1), (1, 2), (3, 4), (5, 1), (100, 7), (1, 1 << 13), (12345, 678)]:
        expected = 1 + int(np.floor(np.log2(total / count) + 14))
        assert energy_class(total, count) == min(expected, ENERGIES - 1)
    assert energy_class(1, 1 << 40) == 1  # not 0, which says that the band holds only zeros
    assert energy_class(1 << 60, 1) == ENERGIES - 1
    classes = [energy_class(total, 1000) for total in range(0, 100_000, 37)]
    assert classes == sorted(classes)


def test_the_classes_of_a_volume_stand_in_coding_order_beside_those_above_and_before() -> None:
    symbols = some_symbols()
    symbols[1][2][:, 1] = 0
    energies = energies_of(symbols)
    ids = band_ids(len(symbols) - 1)
    assert energies.shape == (len(ids), RANK) and energies[ids.index(BandId(1, 2)), 1] == 0
    inputs = energy_inputs(energies)
    assert torch.equal(inputs[..., 0], energies)
    assert not inputs[0, :, 1].any() and torch.equal(inputs[1, :, 1], energies[0])
    assert torch.equal(inputs[ids.index(BandId(2, 2)), :, 1], energies[ids.index(BandId(1, 2))])
    assert not inputs[:, 0, 2].any() and torch.equal(inputs[:, 1:, 2], energies[:, :-1])


def test_a_walk_goes_through_all_places_in_coding_order_but_for_bands_of_zeros() -> None:
    symbols = some_symbols()
    symbols[2][0][:, 1] = 0
    arrays = [[band.numpy() for band in level] for level in symbols]
    walk = Session(fixed_ladder().ladder.coder().context, SIZE, 2, 100, energies_of(symbols).numpy())
    seen = []
    for site in walk.sites():
        walk.add(site, walk.take(site, arrays))
        seen.append(tuple(site))
    assert seen == [tuple(place) for place in ORDER if place[:2] != (1, BandId(2, 0))]
    for level, found in zip(arrays, walk.symbols, strict=True):
        for band, same in zip(level, found, strict=True):
            np.testing.assert_array_equal(same, band)
