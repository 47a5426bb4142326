import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from data.case import CineCase
from data.preprocess import (
    Geometry,
    apply,
    apply_mask,
    heart_center,
    invert,
    model_field,
    model_spacing,
    native_field,
    plan,
    prepare,
    to_grid,
)
from data.window import normalize, window_of

SHAPES = [(20, 30), (30, 20), (16, 16), (7, 40), (12, 9), (33, 31)]


def beating(hw: tuple[int, int], center: tuple[float, float], phases: int, noise: float = 3.0) -> np.ndarray:
    """(H, W, 2, T): a disk that beats, and a bright rim that drifts in brightness on one slice."""
    rng = np.random.default_rng(0)
    rows, cols = np.ogrid[: hw[0], : hw[1]]
    radius = 14 + 5 * np.cos(2 * np.pi * np.arange(phases) / phases)
    disk = ((rows - center[0]) ** 2 + (cols - center[1]) ** 2)[..., None] < radius**2
    cine = np.repeat((50 + 150 * disk)[:, :, None], 2, axis=2) + rng.normal(0, noise, (*hw, 2, phases))
    cine[:, :6, 0] += np.linspace(0, 100, phases)
    return cine.astype(np.int16)


def test_the_window_is_zero_to_the_high_percentile_of_the_whole_volume():
    cine = np.arange(1000, dtype=np.int16).reshape(10, 10, 2, 5)
    assert window_of(cine) == (0.0, float(np.percentile(cine, 99.5)))


@pytest.mark.parametrize("value", [0, -3, np.nan])
def test_a_volume_without_signal_has_no_window(value):
    with pytest.raises(ValueError, match="percentile"):
        window_of(np.full((4, 4, 2, 2), value))


def test_normalizing_clips_to_zero_and_one():
    result = normalize(np.array([-5, 0, 50, 100, 900], np.int16), (0.0, 100.0))
    assert result.dtype == np.float32
    assert np.allclose(result, [0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("hw", SHAPES)
@pytest.mark.parametrize("center", [None, (0.0, 0.0), (3.2, 11.7), (99.0, 99.0)])
def test_a_crop_and_its_inverse_are_exact_inside_the_field(hw, center):
    geometry = plan(hw, 16, "crop", center)
    images = np.random.default_rng(0).random((3, *hw)).astype(np.float32) + 1
    there = apply(images, geometry)
    field = native_field(geometry)
    assert there.shape == (3, 16, 16)
    assert field.sum() == model_field(geometry).sum() == min(16, hw[0]) * min(16, hw[1])
    assert np.array_equal(there > 0, np.broadcast_to(model_field(geometry), there.shape))
    assert np.array_equal(invert(there, geometry), np.where(field, images, 0))


def test_a_crop_stands_around_its_center_where_there_is_room():
    image = np.zeros((40, 40), np.float32)
    image[21, 18] = 1
    assert np.argwhere(apply(image, plan((40, 40), 15, "crop", (21.0, 18.0)))).tolist() == [[7, 7]]


@pytest.mark.parametrize("hw", SHAPES)
def test_fit_keeps_the_whole_image_and_pads_evenly(hw):
    geometry = plan(hw, 16, "fit")
    height, width = geometry.resized_hw
    assert max(height, width) == min(16, max(hw))
    assert geometry.scale == min(1, 16 / max(hw))
    assert native_field(geometry).all()
    rows, cols = np.nonzero(model_field(geometry))
    assert abs((rows.min() + rows.max()) - 15) <= 1 and abs((cols.min() + cols.max()) - 15) <= 1
    assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == (height, width)


@pytest.mark.parametrize("hw", [(20, 30), (33, 31), (64, 64)])
def test_fit_resizes_as_torch_does_with_antialias(hw):
    images = np.random.default_rng(0).random((2, *hw)).astype(np.float32)
    geometry = plan(hw, 16, "fit")
    expected = functional.interpolate(
        torch.from_numpy(images)[None], geometry.resized_hw, mode="bilinear", antialias=True, align_corners=False
    )[0].numpy()
    found = apply(images, geometry)[:, model_field(geometry)]
    assert np.allclose(found, expected.reshape(2, -1), atol=1e-5)


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_an_image_that_has_the_model_size_passes_untouched(mode):
    image = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    geometry = plan((16, 16), 16, mode)
    assert np.array_equal(apply(image, geometry), image)
    assert np.array_equal(invert(image, geometry), image)


def test_fit_gives_a_smooth_image_back():
    rows, cols = np.mgrid[:48, :40] / 48
    image = (np.sin(3 * rows) * np.cos(2 * cols)).astype(np.float32)
    geometry = plan((48, 40), 24, "fit")
    error = np.abs(invert(apply(image, geometry), geometry) - image)
    assert error[2:-2, 2:-2].max() < 0.005 and error.max() < 0.05  # the rim has no neighbour to interpolate with


def test_masks_keep_their_labels():
    mask = np.random.default_rng(0).integers(0, 4, (33, 31)).astype(np.uint8)
    small = apply_mask(mask, plan((33, 31), 16, "fit"))
    assert small.dtype == np.uint8
    assert set(np.unique(small)) <= {0, 1, 2, 3}


def test_spacing_grows_as_pixels_merge():
    spacing = model_spacing((1.0, 1.5, 8.0), plan((64, 48), 16, "fit"))
    assert spacing == (4.0, 6.0, 8.0)
    assert model_spacing((1.0, 1.5, 8.0), plan((64, 48), 16, "crop")) == (1.0, 1.5, 8.0)


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_a_geometry_survives_json(mode):
    geometry = plan((33, 21), 24, mode, (12.3, 4.5))
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_a_wrong_shape_or_mode_is_refused():
    geometry = plan((20, 30), 16, "crop")
    with pytest.raises(ValueError, match=r"\(30, 20\)"):
        apply(np.zeros((30, 20)), geometry)
    with pytest.raises(ValueError, match="16 a side"):
        invert(np.zeros((20, 30)), geometry)
    with pytest.raises(ValueError, match="crop, fit"):
        plan((20, 30), 16, "stretch")


@pytest.mark.parametrize("mode", ["crop", "fit"])
@pytest.mark.parametrize("low", [0.0, -20.0])
def test_padding_is_black_and_images_lie_in_zero_to_one(mode, low):
    geometry = plan((40, 12), 16, mode)
    images = to_grid(np.full((2, 40, 12), 500, np.int16), (low, 100.0), geometry)
    assert images.dtype == np.float32
    assert np.allclose(images[:, model_field(geometry)], 1)
    assert (images[:, ~model_field(geometry)] == 0).all() and images.max() <= 1


@pytest.mark.parametrize("phases", [2, 9])
@pytest.mark.parametrize("center", [(60.0, 70.0), (48.0, 90.0), (80.0, 52.0)])
def test_the_heart_is_found_where_it_beats(phases, center):
    found = heart_center(beating((128, 140), center, phases))
    assert np.hypot(*np.subtract(found, center)) < 4


def test_the_center_of_a_still_image_is_its_middle():
    assert heart_center(np.full((20, 31, 2, 4), 7, np.int16)) == (9.5, 15.0)
    assert heart_center(np.zeros((20, 31, 2, 1), np.int16)) == (9.5, 15.0)


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_a_prepared_case_can_be_taken_back_to_native_voxels(mode):
    cine = beating((40, 36), (20.0, 18.0), 4)
    case = CineCase("p", cine, {}, (1.5, 1.5, 8.0), np.eye(4), None, None, None, None, None, 2.0, -20.0, "")
    prepared = prepare(case, 48, mode)
    assert prepared.image.shape == (1, 48, 48, 2, 4) and prepared.image.dtype == np.float32
    assert prepared.window == (0.0, 2 * np.percentile(cine, 99.5) - 20)  # in real values
    frames = invert(prepared.image[0].transpose(2, 3, 0, 1), prepared.geometry).transpose(2, 3, 0, 1)
    assert np.allclose(frames, normalize(2 * cine - 20, prepared.window))
