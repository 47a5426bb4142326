"""The number of phases T that a batch shows is drawn, so that a model works for any T."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data.loading.dataset import CineDataset
from data.loading.loader import train_loader
from tests.shards import made_up, make_shards

LEAST, MOST, STORED = 3, 8, 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(
        tmp_path_factory.mktemp("drawn") / "shards", [made_up(number, 2, STORED) for number in (1, 2, 3)]
    )


def dataset(shards: Path, unit: str = "slice", **options) -> CineDataset:
    return CineDataset(shards, "train", unit, 16, "crop", phases=LEAST, max_phases=MOST, seed=3, **options)


def counts(shards: Path, steps: int, *loader: int) -> list[int]:
    return [batch.image.shape[2] for batch in islice(train_loader(dataset(shards), *loader), steps)]


@pytest.mark.parametrize("unit", ["slice", "stack"])
def test_every_number_of_phases_from_least_to_most_comes(shards, unit):
    found = {batch.image.shape[2] for batch in islice(train_loader(dataset(shards, unit), 2), 80)}
    assert found == set(range(LEAST, MOST + 1))


def test_all_ranks_and_all_micro_batches_of_an_update_have_one_number_of_phases(shards):
    ranks = [counts(shards, 12, 4, rank, 2, 0, 0, 3) for rank in (0, 1)]
    assert ranks[0] == ranks[1]
    assert all(len(set(ranks[0][first : first + 3])) == 1 for first in range(0, 12, 3)) and len(set(ranks[0])) > 1


def test_a_resumed_run_goes_on_with_the_same_numbers(shards):
    assert counts(shards, 12, 2)[5:] == counts(shards, 7, 2, 0, 1, 0, 5)


def test_a_sample_shows_a_run_of_successive_phases_or_an_even_share_of_the_whole_cycle(shards):
    samples, kinds = dataset(shards), set()
    for epoch in range(40):
        times = np.rint(samples[epoch, 0, 4].arrays["phase"] * STORED).astype(int)
        gaps = tuple((np.roll(times, -1) - times) % STORED)
        assert sum(gaps) == STORED
        kinds.add(tuple(sorted(gaps)))
    assert kinds == {(1, 1, 1, 9), (3, 3, 3, 3)}


def test_ed_and_es_are_shown_for_every_number_of_phases(shards):
    samples = dataset(shards, key_frames=True)
    for count in range(LEAST, MOST + 1):
        arrays = samples[0, 0, count].arrays
        assert arrays["image"].shape[1] == count and arrays["has_label"][0, arrays["key_frames"]].all()


@pytest.mark.parametrize(("unit", "phases", "most"), [("slice", 5, 4), ("slice", None, 4), ("frame", 2, 4)])
def test_limits_that_contradict_each_other_are_refused(shards, unit, phases, most):
    with pytest.raises(ValueError, match=r"dataset\.max_phases is 4"):
        CineDataset(shards, "train", unit, 16, "crop", phases=phases, max_phases=most)
