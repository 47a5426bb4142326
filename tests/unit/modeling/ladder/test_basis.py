"""The temporal basis follows from its integers alone and is orthonormal, whatever the integers are."""

import numpy as np
import pytest

from modeling.ladder.basis import LIMIT, basis_ids, orthonormal
from tests.ladders import smooth_cine


def random_ids(phases: int, rank: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-LIMIT, LIMIT + 1, (phases, rank))


def degenerate(name: str) -> np.ndarray:
    """Integers whose columns do not span a space of their number."""
    ids = random_ids(6, 5, 0)
    if name == "all zero":
        ids[:] = 0
    elif name == "all largest":
        ids[:] = LIMIT
    elif name == "equal columns":
        ids[:] = ids[:, :1]
    elif name == "a zero column first":
        ids[:, 0] = 0
    elif name == "opposite columns":
        ids[:, 1:] = -ids[:, :1]
    else:  # columns that are almost the same
        ids[:] = ids[:, :1].clip(-LIMIT + 1, LIMIT - 1) + np.eye(6, 5, dtype=int)
    return ids


def assert_orthonormal(basis: np.ndarray) -> None:
    assert np.abs(basis.T @ basis - np.eye(basis.shape[1])).max() < 1e-14


@pytest.mark.parametrize("phases", [1, 2, 3, 7, 20, 40])
@pytest.mark.parametrize("seed", range(4))
def test_random_integers_give_an_orthonormal_basis(phases: int, seed: int) -> None:
    for rank in {1, (phases + 1) // 2, phases}:
        assert_orthonormal(orthonormal(random_ids(phases, rank, seed)))


@pytest.mark.parametrize(
    "name",
    ["all zero", "all largest", "equal columns", "a zero column first", "opposite columns", "nearly equal columns"],
)
def test_integers_that_span_too_little_give_an_orthonormal_basis_too(name: str) -> None:
    assert_orthonormal(orthonormal(degenerate(name)))


def test_a_basis_follows_from_its_integers_alone() -> None:
    ids = random_ids(9, 6, 1)
    expected = orthonormal(ids)
    for same in (ids.astype(np.int32), np.asfortranarray(ids), ids[::-1][::-1]):
        np.testing.assert_array_equal(orthonormal(same), expected)
    other = ids.copy()
    other[0, 0] += 5
    assert not np.array_equal(orthonormal(other), expected)


def test_the_first_columns_do_not_depend_on_later_ones() -> None:
    ids = random_ids(8, 8, 2)
    for rank in (1, 3, 7):
        np.testing.assert_array_equal(orthonormal(ids[:, :rank]), orthonormal(ids)[:, :rank])


@pytest.mark.parametrize("phases", [1, 2, 5, 11])
def test_as_many_components_as_phases_give_the_cine_back(phases: int) -> None:
    cine = smooth_cine(2, phases, 6, 7).double().numpy()
    basis = orthonormal(basis_ids(cine, phases))
    components = np.einsum("dthw,tr->drhw", cine, basis)
    np.testing.assert_allclose(np.einsum("drhw,tr->dthw", components, basis), cine, atol=1e-13)


def test_a_few_components_hold_almost_as_much_energy_as_the_best_ones() -> None:
    cine = smooth_cine(3, 12, 24, 28, seed=5).double().numpy()
    rows = cine.swapaxes(0, 1).reshape(12, -1)
    best = np.linalg.eigvalsh(rows @ rows.T)[::-1]
    for rank in (1, 3, 6):
        held = np.square(orthonormal(basis_ids(cine, rank)).T @ rows).sum()
        assert best[:rank].sum() - held < 0.002 * best.sum()


def test_the_integers_are_in_range_and_lead_with_what_is_brightest() -> None:
    ids = basis_ids(smooth_cine(2, 10).numpy(), 10)
    assert ids.shape == (10, 10) and ids.dtype == np.int64 and np.abs(ids).max() <= LIMIT
    assert (ids[:, 0] > 0).all()  # the mean over the phases, and not its negative
    assert (ids.sum(0) >= -5).all()


@pytest.mark.parametrize("rank", [0, 6])
def test_a_rank_that_the_cine_does_not_have_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank = {rank}: expected 1 to 5"):
        basis_ids(smooth_cine(phases=5).numpy(), rank)
