from itertools import islice

import numpy as np
import pytest
import torch

from data.loading.augment import AugmentConfig
from data.loading.dataset import CineDataset, on_grid
from data.loading.loader import collate, train_loader
from data.preprocess import prepare
from tests.shards import made_up, make_shards


@pytest.fixture
def folder(tmp_path):
    """Patients of 2, 4 and 3 slices; the third does not know its ED and ES."""
    cases = [made_up(1, 2, 5), made_up(2, 4, 6, ed=4, es=2), made_up(3, 3, 5, ed=None, es=None)]
    return make_shards(tmp_path / "shards", cases)


def frames_of(image):
    """(1, S, S, D, T) as (D, T, 1, S, S)."""
    return image.transpose(3, 4, 0, 1, 2)


def stacks(folder, **changes):
    return CineDataset(**{"folder": folder, "split": "train", "unit": "stack", "image_size": 16, "geometry": "crop",
                          **changes})  # fmt: skip


def test_a_stack_is_a_patient_with_all_slices_at_ed_and_es_in_the_order_of_the_cycle(folder):
    dataset = stacks(folder)
    assert len(dataset) == 3
    for index, times, places in ((0, [1, 3], [0, 1]), (1, [2, 4], [1, 0])):
        sample = dataset[0, index]
        case = dataset.reader.read_case(sample.key)
        assert np.array_equal(sample.arrays["image"], frames_of(prepare(case, 16, "crop").image[..., times]))
        assert sample.arrays["key_frames"].tolist() == places
        assert np.allclose(sample.arrays["phase"], np.array(times) / case.cine.shape[3])
        assert sample.arrays["has_label"].all() and sample.arrays["mask"].max() == 3
        assert np.isnan(sample.arrays["bsa_m2"])  # height and weight are unknown
        depth = case.cine.shape[2]
        assert np.allclose(sample.arrays["slice_position"], (np.arange(depth) + 0.5) / depth)


def test_an_unknown_es_is_the_phase_of_the_whole_stack_most_unlike_ed(folder):
    dataset = stacks(folder)
    sample = dataset[0, 2]
    cine = dataset.reader.read_case("patient003").cine.astype(float)
    expected = np.abs(cine - cine[..., :1]).mean(axis=(0, 1, 2)).argmax()
    assert np.rint(sample.arrays["phase"] * 5).tolist() == [0, expected] == [0, 3]
    assert not sample.arrays["has_label"].any() and not sample.arrays["mask"].any()


def test_shorter_stacks_of_a_batch_are_padded_at_the_end_and_padding_is_in_no_field(folder):
    dataset = stacks(folder)
    batch = collate([dataset[0, i] for i in range(3)])
    assert batch.image.shape == (3, 4, 2, 1, 16, 16) and batch.mask.shape == (3, 4, 2, 16, 16)
    assert batch.field.shape == (3, 4, 16, 16) and batch.field.dtype == torch.bool
    assert batch.has_label.shape == (3, 4, 2) and batch.slice_position.shape == (3, 4)
    valid = torch.arange(4) < torch.tensor([2, 4, 3])[:, None]
    assert torch.equal(batch.field.any(3).any(2), valid)
    assert torch.equal(batch.valid_frames().view(3, 4, 2), valid[..., None].expand(-1, -1, 2))
    assert not batch.image[0, 2:].any() and not batch.mask[0, 2:].any()
    assert not batch.has_label[0, 2:].any() and (batch.slice_position[0, 2:] == 0.5).all()
    for i in range(3):
        alone = collate([dataset[0, i]])
        depth = alone.field.shape[1]
        assert torch.equal(batch.image[i, :depth], alone.image[0])
        assert torch.equal(batch.mask[i, :depth], alone.mask[0])


def test_a_padded_pixel_of_a_slice_is_in_no_field_either(folder):
    batch = collate([stacks(folder, image_size=32)[0, 0]])
    assert batch.field[0, 0].sum() == batch.field[0, 1].sum() == 20 * 24


def test_augmentation_draws_once_for_all_slices_of_a_stack(folder, monkeypatch):
    config = AugmentConfig(True, rotate_degrees=30, scale=0.2, shift=0.1, flip=True, gamma=0.5)
    monkeypatch.setattr(
        "data.loading.dataset.on_grid", lambda slices, *rest, **how: on_grid(slices[:1] * 4, *rest, **how)
    )
    same, moved = (stacks(folder, augment=augment)[0, 1].arrays for augment in (None, config))
    assert not np.array_equal(moved["image"], same["image"])
    for name in ("image", "mask", "field"):
        first, *others = moved[name]
        assert all(np.array_equal(first, other) for other in others)


def test_augmented_stacks_move_image_mask_and_field_of_each_slice_together(folder):
    config = AugmentConfig(True, rotate_degrees=30, scale=0.3, shift=0.3)
    arrays = stacks(folder, augment=config, image_size=32)[0, 1].arrays
    outside = np.repeat(~arrays["field"][:, None], 2, axis=1)  # (D, T, S, S)
    assert outside.any() and not arrays["image"][:, :, 0][outside].any() and not arrays["mask"][outside].any()
    assert arrays["image"].shape == (4, 2, 1, 32, 32) and arrays["mask"].max() == 3


def test_only_ed_and_es_of_a_stack_are_read(folder, monkeypatch):
    dataset = stacks(folder)
    read, asked = dataset.reader.read, []
    monkeypatch.setattr(dataset.reader, "read", lambda i, times=None: asked.append(times) or read(i, times))
    assert dataset[0, 1].key == "patient002"
    assert [list(times) for times in asked] == [[2, 4]] * 4


def test_an_epoch_shows_every_patient_once(folder):
    batches = islice(train_loader(stacks(folder), 3), 4)
    assert all(sorted(batch.key) == ["patient001", "patient002", "patient003"] for batch in batches)


def test_a_stack_of_less_than_two_phases_is_refused(folder):
    with pytest.raises(ValueError, match=r"dataset.phases is 1, but the samples contain ED and ES"):
        stacks(folder, phases=1)
    assert len(stacks(folder, phases=2)) == 3


def test_a_stack_of_more_phases_has_ed_and_es_and_evenly_spaced_others_in_all_its_slices(folder):
    dataset = stacks(folder, phases=4)
    arrays = dataset[0, 1].arrays
    assert arrays["image"].shape[:2] == (4, 4) and dataset.frames_of(1) == 16 and dataset.draws()
    keys = dataset.key_phases(list(dataset.reader.patients()["patient002"]))
    phases = dataset.reader.samples[dataset.reader.patients()["patient002"][0]].phases
    np.testing.assert_allclose(arrays["phase"][arrays["key_frames"]], keys / phases)
    assert (np.diff(arrays["phase"]) >= 0).all()
