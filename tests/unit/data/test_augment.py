import numpy as np
import pytest

from data.augment import AugmentConfig, Draw, affine, augment

ALL = AugmentConfig(True, rotate_degrees=25, scale=0.2, shift=0.1, flip=True, gamma=0.5, noise=0.05)
SEEDS = range(20)


def blob(size: int = 64, phases: int = 2, spacing_mm=(1.5, 1.5, 8.0), padding: int = 0) -> dict[str, np.ndarray]:
    """A smooth bright ellipse off the centre, labelled where it is above one half; it shrinks from phase to phase."""
    rows, cols, t = np.ogrid[:size, :size, :phases]
    shrink = 1 - 0.2 * t / phases
    near = ((rows - 0.45 * size) / (0.16 * size * shrink)) ** 2 + ((cols - 0.6 * size) / (0.11 * size * shrink)) ** 2
    image = np.exp(-np.log(2) * near).astype(np.float32)
    field = np.ones((size, size), bool)
    field[:padding] = False
    image *= field[:, :, None]  # (S, S, T)
    return {
        "image": image[None, :, :, None],
        "mask": (image > 0.5).astype(np.uint8)[:, :, None] * 3,
        "has_label": np.ones((1, phases), bool),
        "field": field[:, :, None],
        "slice_position": np.array([0.5], np.float32),
        "phase": np.arange(phases, dtype=np.float32) / phases,
        "key_frames": np.array([0, phases - 1]),
        "spacing_mm": np.array(spacing_mm, np.float32),
    }


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
        bright, labelled = result["image"][0] > 0.5, result["mask"] > 0
        assert labelled.any(axis=(0, 1, 2)).all()
        assert 2 * (bright & labelled).sum() / (bright.sum() + labelled.sum()) > 0.9


def test_the_field_moves_with_the_image_and_padding_stays_empty():
    given = blob(padding=20)
    given["image"][:] = given["field"][None, ..., None]
    given["mask"][:] = given["field"][..., None]
    for seed in SEEDS:
        result = augment(given, ALL, seed)
        outside = ~result["field"]
        assert outside.any() and result["field"].any()
        assert result["image"][0, outside].max() == 0
        assert np.array_equal(result["mask"][..., 0] > 0, result["field"])


def test_all_phases_move_alike():
    given = blob(phases=3)
    given["image"][:] = given["image"][..., :1]
    result = augment(given, AugmentConfig(True, 30, 0.2, 0.1, True, 0.5), 3)
    assert (result["image"] == result["image"][..., :1]).all()
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
    matrix, _ = affine(Draw(0.7, 1.0, (0.0, 0.0), False, 1.0, 0.0), 64, spacing)
    in_mm = np.diag(spacing[:2]) @ matrix @ np.diag(1 / spacing[:2])
    assert np.allclose(in_mm @ in_mm.T, np.eye(2), atol=1e-6)


def test_a_shift_moves_by_that_fraction_of_the_side():
    matrix, offset = affine(Draw(0.0, 1.0, (0.25, -0.5), False, 1.0, 0.0), 64, np.ones(3))
    assert np.allclose(matrix, np.eye(2)) and np.allclose(offset, [-16, 32])


def test_a_flip_is_exact_and_falls_on_about_half_the_samples():
    given, flipped = blob(padding=9), 0
    mirror = {"image": given["image"][:, :, ::-1], "mask": given["mask"][:, ::-1], "field": given["field"][:, ::-1]}
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
    given["image"][:] = 0.5 * given["field"][None, ..., None]
    spreads = []
    for seed in SEEDS:
        result = augment(given, AugmentConfig(True, noise=0.1), seed)["image"][0]
        assert not result[~given["field"]].any()
        spreads.append(float(result[given["field"]].std()))
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
    with pytest.raises(ValueError, match=rf"dataset\.augment\.{name} is "):
        AugmentConfig(**{name: value})
