"""Which samples a step takes is a function of (seed, epoch, manifest), whatever the ranks, workers and shards."""

from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch

from data.loading.augment import AugmentConfig
from data.loading.dataset import UNITS, CineDataset
from data.loading.loader import train_loader
from tests.shards import made_up, make_shards
from utils.types import Batch

STEPS, BATCH = 5, 4
AUGMENT = AugmentConfig(True, rotate_degrees=20, flip=True, noise=0.05)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three patients of 2, 3 and 1 slices: one a shard, all in one shard, and converted in another order."""
    root = tmp_path_factory.mktemp("order")
    cases = [made_up(1, 2, 5), made_up(2, 3, 4), made_up(3, 1, 6)]
    return {
        "many": make_shards(root / "many", cases),
        "one": make_shards(root / "one", cases, shard_bytes=1 << 30),
        "turned": make_shards(root / "turned", cases[::-1]),
    }


def samples(batch: Batch) -> list[dict[str, object]]:
    """Each sample of a batch without the slices that pad it."""
    found = []
    for i, key in enumerate(batch.key):
        depth = int(batch.field[i].any(2).any(1).sum())
        found.append({
            "key": key, "image": batch.image[i, :depth], "mask": batch.mask[i, :depth],
            "field": batch.field[i, :depth], "has_label": batch.has_label[i, :depth],
            "slice_position": batch.slice_position[i, :depth], "phase": batch.phase[i],
            "key_frames": batch.key_frames[i], "spacing_mm": batch.spacing_mm[i], "seed": batch.sample_seed[i],
        })  # fmt: skip
    return found


def steps(folder: Path, unit: str, rank: int = 0, ranks: int = 1, workers: int = 0, start: int = 0, count: int = STEPS):
    dataset = CineDataset(
        folder, "train", unit, 16, "crop", phases=3 if unit == "slice" else None, seed=7, augment=AUGMENT
    )
    loader = train_loader(dataset, BATCH, rank, ranks, workers, start)
    return [samples(batch) for batch in islice(loader, count)]


@cache
def alone(folder: Path, unit: str):
    return steps(folder, unit)


def equal(a, b) -> bool:
    pairs = [(x, y) for xs, ys in zip(a, b, strict=True) for x, y in zip(xs, ys, strict=True)]
    return all(
        torch.equal(x[name], y[name]) if isinstance(x[name], torch.Tensor) else x[name] == y[name]
        for x, y in pairs for name in x
    )  # fmt: skip


def interleaved(parts):
    """The global batches of which rank r of R has the samples r, r + R, ..."""
    return [[sample for row in zip(*step, strict=True) for sample in row] for step in zip(*parts, strict=True)]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_and_workers_cut_the_stream_without_repeats_or_gaps(folders, ranks, workers, unit):
    parts = [steps(folders["many"], unit, rank, ranks, workers) for rank in range(ranks)]
    assert equal(interleaved(parts), alone(folders["many"], unit))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("cut", ["one", "turned"])
def test_order_and_arrays_do_not_depend_on_how_the_shards_are_cut(folders, cut, unit):
    assert equal(alone(folders[cut], unit), alone(folders["many"], unit))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("start", "ranks", "workers"), [(1, 1, 0), (3, 1, 2), (2, 2, 0)])
def test_a_run_that_resumes_at_a_step_goes_on_exactly_on_any_number_of_ranks(folders, start, ranks, workers, unit):
    rest = [steps(folders["many"], unit, rank, ranks, workers, start, STEPS - start) for rank in range(ranks)]
    assert equal(interleaved(rest), alone(folders["many"], unit)[start:])


@pytest.mark.parametrize(("unit", "length"), [("frame", 10 + 12 + 6), ("slice", 6), ("stack", 3)])
def test_each_epoch_holds_every_sample_once_in_an_order_of_its_own(folders, unit, length):
    line = [sample["key"] for step in steps(folders["many"], unit, count=3 * length) for sample in step]
    epochs = [line[i : i + length] for i in range(0, 4 * length, length)]
    assert all(len(set(epoch)) == length for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
