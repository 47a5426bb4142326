import numpy as np
import pytest

from data.loading.augment import AugmentConfig, Draw, affine, roll
from data.loading.augment import augment as augment_part
from data.preprocess import Geometry, plan
from utils.config.recipe import from_plain

ALL = AugmentConfig(True, rotate_degrees=25, scale=0.2, shift=0.1, flip=True, gamma=0.5, noise=0.05, roll=True)
SEEDS = range(20)


def blob(size: int = 64, phases: int = 2, spacing_mm=(1.5, 1.5, 8.0), padding: int = 0) -> dict[str, np.ndarray]:
    """A smooth bright ellipse off the centre, labelled where it is above one half; it shrinks from phase to phase."""
    t, rows, cols = np.ogrid[:phases, :size, :size]
    shrink = 1 - 0.2 * t / phases
    near = ((rows - 0.45 * size) / (0.16 * size * shrink)) ** 2 + ((cols - 0.6 * size) / (0.11 * size * shrink)) ** 2
    image = np.exp(-np.log(2) * near).astype(np.float32)
    field = np.ones((size, size), bool)
    field[:padding] = False
    image *= field  # (T, S, S)
    return {
        "image": image[None, :, None],
        "mask": (image > 0.5).astype(np.uint8)[None] * 3,
        "has_label": np.ones((1, phases), bool),
        "field": field[None],
        "slice_position": np.array([0.5], np.float32),
        "phase": np.arange(phases, dtype=np.float32) / phases,
        "key_frames": np.array([0, phases - 1]),
        "spacing_mm": np.array(spacing_mm, np.float32),
    }


def augment(arrays: dict[str, np.ndarray], config: AugmentConfig, seed: int) -> dict[str, np.ndarray]:
    """Of a sample that holds its whole cycle, in an image of just the size of the grid."""
    return augment_part(arrays, config, seed, len(arrays["phase"]), whole_image(arrays))


def whole_image(arrays: dict[str, np.ndarray]) -> Geometry:
    """The grid is the whole image."""
    size = arrays["image"].shape[-1]
    return Geometry("crop", (size, size), size, (0, 0))


def volume_ml(arrays: dict[str, np.ndarray]) -> float:
    return float((arrays["mask"] > 0).sum() * arrays["spacing_mm"].astype(float).prod() / 1000)


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_sample_and_another_seed_another():
    assert equal(augment(blob(), ALL, 5), augment(blob(), ALL, 5))
    assert not np.array_equal(augment(blob(), ALL, 5)["image"], augment(blob(), ALL, 6)["image"])


def test_nothing_asked_for_changes_nothing():
    for seed in SEEDS:
        assert equal(augment(blob(padding=9), AugmentConfig(enabled=True), seed), blob(padding=9))


def test_shapes_types_and_ranges_stay_and_the_input_is_left_alone():
    given = blob(padding=9)
    for seed in SEEDS:
        result = augment(given, ALL, seed)
        for name, value in given.items():
            assert result[name].shape == value.shape and result[name].dtype == value.dtype
        assert result["image"].min() >= 0 and result["image"].max() <= 1
        assert set(np.unique(result["mask"])) <= {0, 3}
    assert equal(given, blob(padding=9))


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 8.0), (1.0, 1.6, 8.0)])
def test_image_and_mask_move_together(spacing_mm):
    for seed in SEEDS:
        result = augment(blob(spacing_mm=spacing_mm), AugmentConfig(True, 180, 0.2, 0.1, True), seed)
        bright, labelled = result["image"][:, :, 0] > 0.5, result["mask"] > 0
        assert labelled.any(axis=(0, 2, 3)).all()
        assert 2 * (bright & labelled).sum() / (bright.sum() + labelled.sum()) > 0.9


def test_the_field_moves_with_the_image_and_padding_stays_empty():
    given = blob(padding=20)
    given["image"][:] = given["field"][:, None, None]
    given["mask"][:] = given["field"][:, None]
    for seed in SEEDS:
        result = augment(given, ALL, seed)
        outside = ~result["field"]
        assert outside.any() and result["field"].any()
        assert result["image"][:, 0, 0][outside].max() == 0
        assert np.array_equal(result["mask"][:, 0] > 0, result["field"])


def cut(arrays: dict[str, np.ndarray], inside: slice) -> dict[str, np.ndarray]:
    """A square part of an image."""
    return {**arrays, **{name: arrays[name][..., inside, inside] for name in ("image", "mask", "field")}}


def test_a_turned_crop_shows_native_pixels_in_its_corners():
    config = AugmentConfig(True, rotate_degrees=45, shift=0.1)
    geometry = plan((120, 120), 64, "crop", (60.0, 60.0))
    for seed in SEEDS:
        result = augment_part(blob(120), config, seed, 2, geometry)
        assert result["image"].shape == (1, 2, 1, 64, 64) and result["field"].all()


def test_a_crop_of_the_turned_image_is_the_turned_crop_wherever_the_crop_has_pixels():
    config, geometry = AugmentConfig(True, 45, 0.2, 0.1, flip=True), plan((120, 120), 64, "crop", (60.0, 60.0))
    inside = slice(geometry.offset[0], geometry.offset[0] + 64)
    for seed in SEEDS:
        native, part = augment_part(blob(120), config, seed, 2, geometry), augment(cut(blob(120), inside), config, seed)
        both = part["field"][0] & native["field"][0]
        assert both.mean() > 0.5
        assert np.allclose(native["image"][..., both], part["image"][..., both], atol=0.02)
        assert (native["mask"][..., both] == part["mask"][..., both]).mean() > 0.999


def test_what_lies_outside_the_native_image_is_outside_the_field():
    given = blob(64)
    given["image"][:] = 1
    result = augment_part(given, AugmentConfig(True, 180, 0.2, 0.1), 1, 2, plan((64, 64), 96, "crop"))
    assert not result["field"].all() and (result["image"][:, 0, 0] > 0.999)[result["field"]].all()
    assert result["image"][0, :, 0][:, ~result["field"][0]].max() == 0


def test_all_phases_move_alike():
    given = blob(phases=3)
    given["image"][:] = given["image"][:, :1]
    result = augment(given, AugmentConfig(True, 30, 0.2, 0.1, True, 0.5), 3)
    assert (result["image"] == result["image"][:, :1]).all()
    assert not np.array_equal(result["image"], given["image"])


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 8.0), (1.0, 1.6, 8.0)])
def test_volumes_in_ml_are_kept(spacing_mm):
    given = blob(128, spacing_mm=spacing_mm)
    sizes = set()
    for seed in SEEDS:
        result = augment(given, AugmentConfig(True, rotate_degrees=180, scale=0.25), seed)
        assert volume_ml(result) == pytest.approx(volume_ml(given), rel=0.03)
        assert result["spacing_mm"][2] == 8
        sizes.add(int((result["mask"] > 0).sum()))
    assert max(sizes) > 1.3 * min(sizes)


def test_a_turn_on_oblong_pixels_keeps_lengths_in_mm():
    spacing = np.array([1.0, 1.6, 8.0], np.float32)
    matrix, _ = affine(Draw(0.7, 1.0, (0.0, 0.0), False, 1.0, 0.0, 0.0), 64, spacing)
    in_mm = np.diag(spacing[:2]) @ matrix @ np.diag(1 / spacing[:2])
    assert np.allclose(in_mm @ in_mm.T, np.eye(2), atol=1e-6)


def test_a_shift_moves_by_that_fraction_of_the_side():
    matrix, offset = affine(Draw(0.0, 1.0, (0.25, -0.5), False, 1.0, 0.0, 0.0), 64, np.ones(3))
    assert np.allclose(matrix, np.eye(2)) and np.allclose(offset, [-16, 32])


def test_a_flip_is_exact_and_falls_on_about_half_the_samples():
    given, flipped = blob(padding=9), 0
    mirror = {name: given[name][..., ::-1] for name in ("image", "mask", "field")}
    for seed in range(60):
        result = augment(given, AugmentConfig(True, flip=True), seed)
        is_flipped = not equal(result, given)
        assert equal(result, {**given, **mirror} if is_flipped else given)
        flipped += is_flipped
    assert 15 < flipped < 45


def test_gamma_moves_values_both_ways_within_its_limits():
    given = blob()
    middle = np.unravel_index(np.abs(given["image"] - 0.5).argmin(), given["image"].shape)
    value = float(given["image"][middle])
    results = [float(augment(given, AugmentConfig(True, gamma=1.0), seed)["image"][middle]) for seed in SEEDS]
    assert value**2 <= min(results) < value < max(results) <= value**0.5


def test_noise_is_as_strong_as_asked_and_inside_the_field_alone():
    given = blob(padding=9)
    given["image"][:] = 0.5 * given["field"][:, None, None]
    spreads = []
    for seed in SEEDS:
        result = augment(given, AugmentConfig(True, noise=0.1), seed)["image"][0, :, 0]
        assert not result[:, ~given["field"][0]].any()
        spreads.append(float(result[:, given["field"][0]].std()))
    assert max(spreads) < 0.105 and max(spreads) > 2 * min(spreads)


def test_switching_one_change_leaves_the_others_as_drawn():
    turned = augment(blob(), AugmentConfig(True, rotate_degrees=30, scale=0.2), 4)
    noisy = augment(blob(), AugmentConfig(True, rotate_degrees=30, scale=0.2, gamma=0.5, noise=0.1), 4)
    assert np.array_equal(turned["mask"], noisy["mask"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("rotate_degrees", 181), ("rotate_degrees", -1), ("scale", 1.0), ("shift", -0.1), ("gamma", float("nan")),
     ("gamma", -0.5), ("noise", 2)],
)  # fmt: skip
def test_a_limit_out_of_range_is_refused_by_its_key(name, value):
    with pytest.raises(ValueError, match=rf"^dataset\.augment\.{name}: expected a number from 0"):
        from_plain(AugmentConfig, {name: value}, "dataset.augment")


def cine_of(frames: int, phase: list[float], keys: tuple[int, int], depth: int = 1) -> dict[str, np.ndarray]:
    """Frame t is t / 100 everywhere; the key frames are labelled, with a mask of as many pixels as the frame says."""
    values = np.arange(frames)
    mask = np.zeros((depth, frames, 8, 8), np.uint8)
    labelled = np.isin(values, [key for key in keys if key >= 0])
    for t in values[labelled]:
        mask.reshape(depth, frames, 64)[:, t, : t + 1] = 3
    image = np.broadcast_to(values[:, None, None, None] / 100, (depth, frames, 1, 8, 8)).astype(np.float32)
    return {
        "image": image,
        "mask": mask,
        "has_label": np.broadcast_to(labelled, (depth, frames)).copy(),
        "field": np.ones((depth, 8, 8), bool),
        "slice_position": np.full(depth, 0.5, np.float32),
        "phase": np.array(phase, np.float32),
        "key_frames": np.array(keys),
        "spacing_mm": np.ones(3, np.float32),
    }


def frame_numbers(arrays: dict[str, np.ndarray]) -> list[int]:
    return np.rint(arrays["image"][0, :, 0, 0, 0] * 100).astype(int).tolist()


ROLLED = AugmentConfig(True, roll=True)
WHOLE = [0.0, 0.2, 0.4, 0.6, 0.8]


@pytest.mark.parametrize("depth", [1, 3])
def test_rolling_keeps_the_frames_and_their_order_around_the_cycle(depth):
    given, starts = cine_of(5, WHOLE, (1, 3), depth), set()
    for seed in range(60):
        found = frame_numbers(augment(given, ROLLED, seed))
        assert found == [(found[0] + t) % 5 for t in range(5)]
        starts.add(found[0])
    assert starts == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("depth", [1, 3])
def test_labels_and_key_frames_roll_with_their_images(depth):
    for seed in SEEDS:
        rolled = augment(cine_of(5, WHOLE, (1, 3), depth), ROLLED, seed)
        numbers = frame_numbers(rolled)
        assert [numbers[place] for place in rolled["key_frames"]] == [1, 3]
        assert rolled["has_label"].tolist() == [[number in (1, 3) for number in numbers]] * depth
        sizes = (rolled["mask"] == 3).sum(axis=(2, 3))
        assert sizes.tolist() == [[number + 1 if number in (1, 3) else 0 for number in numbers]] * depth


def test_the_phases_of_a_rolled_whole_cycle_are_those_of_a_stored_one():
    for seed in SEEDS:
        assert augment(cine_of(5, WHOLE, (1, 3)), ROLLED, seed)["phase"].tolist() == np.float32(WHOLE).tolist()


@pytest.mark.parametrize("times", [[1, 2, 5, 9], [7, 0, 2, 5], [2, 2, 5, 9], [0, 1, 5, 5]])
def test_the_phases_of_a_rolled_part_rise_and_keep_their_distances_on_the_cycles_grid(times):
    given, seen = cine_of(4, [t / 10 for t in times], (0, 2)), set()
    for first in range(10):
        rolled = roll(given, 10, first)
        found = np.rint(rolled["phase"] * 10).astype(int).tolist()
        assert found == [(times[number] - first) % 10 for number in frame_numbers(rolled)]
        assert first == 0 or found == sorted(found)
        assert sorted(frame_numbers(rolled)) == [0, 1, 2, 3]
        seen |= set(found)
    assert seen == set(range(10))


def test_a_single_phase_and_unknown_key_frames_stay_as_they_are():
    frame = cine_of(1, [0.4], (-1, -1))
    assert all(equal(augment_part(frame, ROLLED, seed, 10, whole_image(frame)), frame) for seed in SEEDS)
    assert roll(cine_of(5, WHOLE, (-1, -1)), 5, 2)["key_frames"].tolist() == [-1, -1]


def test_all_slices_move_alike():
    given = blob(phases=2)
    stack = {**given, **{name: np.repeat(given[name], 3, axis=0) for name in ("image", "mask", "has_label", "field")}}
    single, result = (augment(arrays, AugmentConfig(True, 30, 0.2, 0.1, True, 0.5, roll=True), 3)
                      for arrays in (given, stack))  # fmt: skip
    for z in range(3):
        assert np.array_equal(result["image"][z], single["image"][0])
        assert np.array_equal(result["mask"][z], single["mask"][0])


def test_blur_reduces_detail_and_keeps_brightness_and_half_of_the_samples_sharp():
    arrays = blob(padding=9)
    noise = np.random.default_rng(0).random(arrays["image"].shape, np.float32)
    arrays["image"] = noise * arrays["field"][:, None, None]
    spread = [augment(arrays, AugmentConfig(True, blur=2.0), seed)["image"][..., 20:, :].std() for seed in range(60)]
    sharp = arrays["image"][..., 20:, :].std()
    assert 20 <= sum(value == pytest.approx(sharp, rel=1e-6) for value in spread) <= 40 and min(spread) < sharp / 2
    for seed in SEEDS:
        found = augment(arrays, AugmentConfig(True, blur=2.0), seed)["image"]
        assert not found[..., :9, :].any() and found.min() >= 0 and found.max() <= 1
        assert found[..., 20:, :].mean() == pytest.approx(arrays["image"][..., 20:, :].mean(), rel=0.05)


def test_a_bias_field_is_smooth_and_within_its_limits():
    arrays = blob()
    arrays["image"] = np.full_like(arrays["image"], 0.3)
    for seed in SEEDS:
        factor = augment(arrays, AugmentConfig(True, bias=0.5), seed)["image"][0, :, 0] / 0.3
        assert np.array_equal(factor[0], factor[1])  # one field for all phases
        assert np.exp(-0.5) - 1e-4 < factor.min() < factor.max() < np.exp(0.5) + 1e-4
        assert 0 < abs(np.diff(np.log(factor[0]))).max() < 0.1
