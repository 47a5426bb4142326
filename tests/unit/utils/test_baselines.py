"""Baseline tokens are well formed and hold what they say."""

import numpy as np
import pytest

from utils.baselines import borrowed, shuffled_within, zeroed
from utils.layout import FrameLayout


def layout(latents: int, anatomy: int = 0) -> FrameLayout:
    return FrameLayout(latents, 4096, anatomy, 4096)


def make_tokens(slices: int, phases: int, latents: int, anatomy: int, first: int = 0) -> np.ndarray:
    """Ids that tell slice (hundreds) and phase (tens) of their place; indices 0 and the last phase."""
    z, t, k = np.meshgrid(np.arange(slices), np.arange(phases), np.arange(latents), indexing="ij")
    ids = (first + 100 * z + 10 * t + k).reshape(slices, -1)
    keys = np.tile([0, phases - 1], (slices, 1))
    return np.concatenate([keys, ids, np.full((slices, 2 * anatomy), 7)], axis=1)


def test_zeroed_keeps_indices_and_absence() -> None:
    tokens = make_tokens(2, 3, 2, 1)
    tokens[0, 4] = -1
    found = zeroed(layout(2, 1), tokens, (2, 3))
    np.testing.assert_array_equal(found[:, :2], tokens[:, :2])
    assert found[0, 4] == -1
    assert found[:, 2:].sum() == -1


def test_borrowing_from_a_patient_of_the_same_shape_takes_its_tokens_as_they_are() -> None:
    tokens = make_tokens(3, 4, 2, 1)
    np.testing.assert_array_equal(borrowed(layout(2, 1), tokens, (3, 4), (3, 4)), tokens)


def test_borrowing_matches_slices_and_phases_by_relative_place() -> None:
    found = borrowed(layout(1), make_tokens(2, 4, 1, 0), (2, 4), (4, 8))
    ids = found[:, 2:]
    np.testing.assert_array_equal(ids[:, 0], [0, 0, 100, 100])
    np.testing.assert_array_equal(ids[0], [0, 10, 10, 20, 20, 30, 30, 0])  # the cycle is closed


def test_borrowed_indices_point_at_the_phases_that_were_borrowed() -> None:
    source = make_tokens(1, 10, 1, 0)
    source[:, :2] = (2, 7)
    found = borrowed(layout(1), source, (1, 10), (2, 20))
    np.testing.assert_array_equal(found[:, :2], [[4, 14], [4, 14]])
    assert found[0, 2 + 4] == 20 and found[0, 2 + 14] == 70
    source[:, :2] = -1
    np.testing.assert_array_equal(borrowed(layout(1), source, (1, 10), (2, 20))[:, :2], -1)


@pytest.mark.parametrize(("slices", "phases"), [(1, 1), (2, 7), (9, 2), (13, 30)])
def test_borrowed_tokens_have_the_shape_of_the_borrower(slices: int, phases: int) -> None:
    found = borrowed(layout(3, 2), make_tokens(5, 6, 3, 2), (5, 6), (slices, phases))
    assert found.shape == (slices, 2 + phases * 3 + 4)
    assert found[:, :2].min() >= 0 and found[:, :2].max() < phases
    np.testing.assert_array_equal(found[:, -4:], 7)


@pytest.mark.parametrize("slices", [2, 3, 8])
def test_shuffling_within_leaves_no_slice_in_its_place(slices: int) -> None:
    tokens = make_tokens(slices, 2, 2, 1)
    found = shuffled_within(layout(2, 1), tokens, (slices, 2))
    np.testing.assert_array_equal(found[:, :2], tokens[:, :2])
    assert (found[:, 2] != tokens[:, 2]).all()
    np.testing.assert_array_equal(np.sort(found[:, 2]), np.sort(tokens[:, 2]))


def test_shuffling_a_single_slice_moves_its_phases_by_half_a_cycle() -> None:
    found = shuffled_within(layout(1, 1), make_tokens(1, 4, 1, 1), (1, 4))
    np.testing.assert_array_equal(found, [[0, 3, 20, 30, 0, 10, 7, 7]])
