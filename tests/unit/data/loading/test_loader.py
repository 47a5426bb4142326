from itertools import islice

import numpy as np
import pytest
import torch

from data.loading.dataset import CineDataset
from data.loading.loader import Stream, collate, epoch_order, train_loader
from data.preprocess import prepare
from data.shards.reader import ShardReader
from utils.files import read_json, write_json


def frames(shards, **changes):
    return CineDataset(
        **{"folder": shards, "split": "train", "unit": "frame", "image_size": 16, "geometry": "crop", **changes}
    )


def equal(a, b) -> bool:
    pairs = zip(a, b, strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_body_surface_follows_from_height_and_weight_of_the_shard(shards) -> None:
    batch = collate([frames(shards)[0, i] for i in (0, 1)])
    assert batch.bsa_m2.dtype == torch.float32
    assert batch.bsa_m2.tolist() == pytest.approx([(170 * 70.5 / 3600) ** 0.5] * 2)


def test_a_frame_batch_has_the_promised_shapes_and_types(shards):
    dataset = frames(shards)
    assert len(dataset) == 2 * 5 + 2 * 4
    batch = collate([dataset[0, 0], dataset[0, 17]])
    assert batch.key == ["patient001_z00_t00", "patient002_z01_t03"]
    expected = {
        "image": ((2, 1, 1, 1, 16, 16), torch.float32), "mask": ((2, 1, 1, 16, 16), torch.uint8),
        "has_label": ((2, 1, 1), torch.bool), "field": ((2, 1, 16, 16), torch.bool),
        "slice_position": ((2, 1), torch.float32), "phase": ((2, 1), torch.float32),
        "spacing_mm": ((2, 3), torch.float32), "sample_seed": ((2,), torch.int64),
    }  # fmt: skip
    assert {name: (tuple(getattr(batch, name).shape), getattr(batch, name).dtype) for name in expected} == expected
    assert batch.slice_position.flatten().tolist() == [0.25, 0.75]
    assert batch.phase.flatten().tolist() == [0.0, 0.75]
    assert batch.has_label.flatten().tolist() == [False, True]


@pytest.mark.parametrize("geometry", ["crop", "fit"])
def test_a_slice_equals_the_prepared_case(shards, geometry):
    dataset = frames(shards, unit="slice", geometry=geometry)
    reader = ShardReader(shards, "train")
    prepared = prepare(reader.read_case("patient001"), 16, geometry)
    sample = dataset[0, 1]
    assert sample.key == "patient001_z01"
    assert np.allclose(sample.arrays["image"][0, :, 0], prepared.image[0, :, :, 1].transpose(2, 0, 1), atol=1e-6)
    assert np.allclose(sample.arrays["spacing_mm"], prepared.spacing_mm)


def test_masks_stand_at_their_phases_alone(shards):
    sample = frames(shards, unit="slice")[0, 0]
    assert sample.arrays["has_label"].tolist() == [[False, True, False, True, False]]
    assert sample.arrays["mask"].max(axis=(0, 2, 3)).tolist() == [0, 3, 0, 3, 0]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 12])
def test_phases_are_evenly_spaced_over_the_cycle(shards, count):
    dataset = frames(shards, unit="slice", phases=count)
    for epoch in range(5):
        times = np.rint(dataset[epoch, 0].arrays["phase"] * 5).astype(int)
        steps = np.diff(np.append(times, times[0])) % 5
        assert len(times) == count
        assert count == 1 or set(steps.tolist()) <= {5 // count, -(-5 // count)}


def test_the_first_phase_changes_with_the_epoch_and_repeats_with_the_seed(shards):
    firsts = [frames(shards, unit="slice", phases=2)[epoch, 0].arrays["phase"].tolist() for epoch in range(12)]
    assert len({tuple(f) for f in firsts}) > 2
    assert firsts[7] == frames(shards, unit="slice", phases=2)[7, 0].arrays["phase"].tolist()


def test_cines_of_different_length_need_a_number_of_phases(shards):
    dataset = frames(shards, unit="slice")
    with pytest.raises(ValueError, match=r"4 to 5 phases; set dataset.phases"):
        collate([dataset[0, 0], dataset[0, 3]])


def test_a_sample_seed_depends_on_seed_epoch_and_key(shards):
    seeds = [
        frames(shards, seed=seed)[epoch, index].sample_seed for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)
    ]
    assert len(set(seeds)) == 8
    assert frames(shards)[1, 1].sample_seed == seeds[3]


def test_an_epoch_shows_every_sample_once(shards):
    batches = islice(train_loader(frames(shards), 6), 3)
    assert len({key for batch in batches for key in batch.key}) == 18


def test_epochs_differ_in_order():
    assert sorted(epoch_order(50, 0, 1)) == list(range(50))
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist() != epoch_order(50, 1, 1).tolist()


def test_the_order_is_pinned():
    assert epoch_order(8, 0, 0).tolist() == [0, 7, 3, 2, 6, 1, 4, 5]


@pytest.mark.parametrize("ranks", [2, 4])
def test_many_ranks_see_together_what_one_rank_sees(shards, ranks):
    dataset = frames(shards)
    alone = islice(train_loader(dataset, 8), 7)
    together = [islice(train_loader(dataset, 8, rank, ranks), 7) for rank in range(ranks)]
    for batch, *parts in zip(alone, *together, strict=True):
        for rank, part in enumerate(parts):
            assert part.key == batch.key[rank::ranks]
            assert torch.equal(part.image, batch.image[rank::ranks])
            assert torch.equal(part.sample_seed, batch.sample_seed[rank::ranks])


@pytest.mark.parametrize("unit", ["frame", "slice"])
def test_a_resumed_stream_goes_on_exactly(shards, unit):
    dataset = frames(shards, unit=unit, phases=3)
    whole = list(islice(train_loader(dataset, 5), 9))
    resumed = list(islice(train_loader(dataset, 5, start_step=4), 5))
    assert all(equal(a, b) for a, b in zip(whole[4:], resumed, strict=True))


def test_workers_change_nothing(shards):
    dataset = frames(shards)
    none = islice(train_loader(dataset, 4), 6)
    two = islice(train_loader(dataset, 4, workers=2), 6)
    assert all(equal(a, b) for a, b in zip(none, two, strict=True))


def test_a_batch_may_be_larger_than_the_split(shards):
    batch = next(iter(train_loader(frames(shards), 40)))
    assert len(batch.key) == 40


def test_the_order_does_not_depend_on_how_the_shards_are_cut(shards):
    before = next(iter(train_loader(frames(shards), 6)))
    manifest = read_json(shards / "manifest.json")
    first, second = manifest["shards"]["train"]
    (shards / first["file"]).rename(shards / "train-000009.tar")
    manifest["shards"]["train"] = [second, {**first, "file": "train-000009.tar"}]
    write_json(shards / "manifest.json", manifest)
    assert equal(before, next(iter(train_loader(frames(shards), 6))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0, 4), "split is empty"),
        ((9, 0, 5, 0, 2), "multiple of the 2 processes"),
        ((9, 0, 4, 2, 2), "out of range"),
    ],
)
def test_an_impossible_stream_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Stream(*arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"unit": "voxel"}, "frame, slice"), ({"geometry": "stretch"}, "crop, fit"), ({"phases": 0}, "positive")],
)
def test_an_impossible_dataset_is_refused(shards, changes, message):
    with pytest.raises(ValueError, match=message):
        frames(shards, **changes)


def test_a_batch_moves_as_one(shards):
    batch = collate([frames(shards)[0, 0]]).to("cpu")
    assert batch.key == ["patient001_z00_t00"]
