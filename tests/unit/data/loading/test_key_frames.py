from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from data.loading.augment import AugmentConfig
from data.loading.dataset import CineDataset, most_unlike
from data.loading.loader import collate, train_loader

ED, ES = 1, 3  # of every patient of the fixture


def slices(shards, **changes):
    options = {"unit": "slice", "image_size": 16, "geometry": "crop", "key_frames": True, **changes}
    return CineDataset(shards, "train", **options)


def times_of(sample, phases: int = 5) -> list[int]:
    return np.rint(sample.arrays["phase"] * phases).astype(int).tolist()


def forget(dataset: CineDataset, *names: str) -> None:
    """Let the first slice's case not know its ED or ES."""
    entry = dataset.reader.samples[0]
    dataset.reader.samples[0] = replace(entry, info={**entry.info, **dict.fromkeys(names)})


@pytest.mark.parametrize("count", [2, 3, 4, 7, None])
def test_key_frames_are_always_among_the_phases(shards, count):
    dataset = slices(shards, phases=count)
    for epoch in range(6):
        sample = dataset[epoch, 0]
        times, places = times_of(sample), sample.arrays["key_frames"]
        assert len(times) == (count or 5) and times == sorted(times)
        assert [times[place] for place in places] == [ED, ES]
        assert places.tolist() == [times.index(ED), times.index(ES)]  # the first place of a time that stands twice
        assert sample.arrays["has_label"][0, places].all()
        assert (sample.arrays["mask"][0, places].max(axis=(1, 2)) == 3).all()


def test_the_other_phases_change_with_the_epoch(shards):
    dataset = slices(shards, phases=3)
    assert len({tuple(times_of(dataset[epoch, 0])) for epoch in range(12)}) > 2


def test_a_batch_carries_the_places_of_its_key_frames(shards):
    batch = next(iter(train_loader(slices(shards, phases=4), 3)))
    assert batch.key_frames.shape == (3, 2) and batch.key_frames.dtype == torch.int64
    assert batch.has_label[:, 0].gather(1, batch.key_frames).all()


@pytest.mark.parametrize("unit", ["frame", "slice"])
def test_places_are_minus_one_where_key_frames_were_not_asked_for(shards, unit):
    dataset = slices(shards, unit=unit, key_frames=False)
    batch = collate([dataset[0, 0], dataset[0, 1]])
    assert batch.key_frames.dtype == torch.int64
    assert batch.key_frames.tolist() == [[-1, -1], [-1, -1]]


def test_an_unknown_ed_is_phase_0_and_an_unknown_es_the_phase_most_unlike_it(shards, monkeypatch):
    cine = np.full((5, 4, 4), 100, np.uint16)
    cine[3, 1] = 40  # below ED: a difference of unsigned integers would wrap around
    cine[4, :2] = 140
    cine[2, 0, 0] = 400  # the largest single difference, but not the largest mean
    for unknown, expected in ((("ed", "es"), [0, 4]), (("ed",), [0, ES]), (("es",), [ED, 4]), ((), [ED, ES])):
        dataset = slices(shards)
        forget(dataset, *unknown)
        whole = dataset.reader.read(0)
        monkeypatch.setattr(dataset.reader, "read", lambda _, times=None, whole=whole: whole._replace(cine=cine))
        assert dataset.key_phases([0]).tolist() == expected
    still = np.full((5, 4, 4), 100, np.uint16)
    assert most_unlike([still, cine], 0) == 4 and most_unlike([still], 0) == 0


def test_key_frames_that_the_case_does_not_know_are_among_the_phases_all_the_same(shards):
    dataset = slices(shards, phases=3)
    forget(dataset, "ed", "es")
    sample = dataset[0, 0]
    ed, es = (times_of(sample)[place] for place in sample.arrays["key_frames"])
    cine = dataset.reader.read(0).cine.astype(float)
    assert ed == 0 and es == np.abs(cine - cine[0]).mean(axis=(1, 2)).argmax()


def test_ed_and_es_may_be_one_phase(shards):
    dataset = slices(shards, phases=2)
    entry = dataset.reader.samples[0]
    dataset.reader.samples[0] = replace(entry, info={**entry.info, "es": ED})
    sample = dataset[0, 0]
    assert times_of(sample) == [ED, ED] and sample.arrays["key_frames"].tolist() == [0, 0]


def test_key_frames_leave_seeds_and_order_as_they_were(shards):
    plain, keyed = (islice(train_loader(slices(shards, phases=2, key_frames=k), 3), 4) for k in (False, True))
    for a, b in zip(plain, keyed, strict=True):
        assert a.key == b.key and torch.equal(a.sample_seed, b.sample_seed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"unit": "frame"}, r"dataset\.key_frames .* 'frame'"), ({"phases": 1}, r"dataset\.phases is 1.* 2 or more")],
)
def test_key_frames_of_what_cannot_hold_them_are_refused(shards, changes, message):
    with pytest.raises(ValueError, match=message):
        slices(shards, **changes)


def test_the_loader_augments_by_seed_epoch_and_key_and_only_when_enabled(shards):
    config = AugmentConfig(enabled=True, rotate_degrees=30, noise=0.1)
    plain, off = slices(shards)[0, 0], slices(shards, augment=replace(config, enabled=False))[0, 0]
    first, again, later = (slices(shards, augment=config)[epoch, 0] for epoch in (0, 0, 1))
    assert np.array_equal(plain.arrays["image"], off.arrays["image"])
    assert not np.array_equal(plain.arrays["image"], first.arrays["image"])
    assert all(np.array_equal(first.arrays[name], again.arrays[name]) for name in plain.arrays)
    assert not np.array_equal(first.arrays["image"], later.arrays["image"])
    assert first.sample_seed == plain.sample_seed
    assert np.array_equal(first.arrays["key_frames"], plain.arrays["key_frames"])


@pytest.mark.parametrize("count", [3, None])
def test_a_rolled_sample_holds_the_same_frames_and_its_key_frames_are_still_labelled(shards, count):
    plain, rolled = slices(shards, phases=count), slices(shards, phases=count, augment=AugmentConfig(True, roll=True))
    moved = 0
    for epoch in range(8):
        before, after = plain[epoch, 0].arrays, rolled[epoch, 0].arrays
        for place, then in zip(after["key_frames"], before["key_frames"], strict=True):
            assert after["has_label"][0, place]
            for name in ("image", "mask"):
                assert np.array_equal(after[name][:, place], before[name][:, then])
        assert sorted(after["image"].sum((0, 2, 3, 4))) == sorted(before["image"].sum((0, 2, 3, 4)))
        moved += not np.array_equal(before["image"], after["image"])
    assert moved > 2


def test_augmented_samples_make_a_batch(shards):
    config = AugmentConfig(True, rotate_degrees=10, scale=0.1, shift=0.1, flip=True, gamma=0.3, noise=0.05, roll=True)
    plain, batch = (collate([slices(shards, phases=3, augment=a)[0, i] for i in (0, 1, 2, 3)]) for a in (None, config))
    for name, value in plain._asdict().items():
        if isinstance(value, torch.Tensor):
            assert getattr(batch, name).shape == value.shape and getattr(batch, name).dtype == value.dtype
