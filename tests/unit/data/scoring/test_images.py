"""Scores are of the native voxels inside the field, and of nothing else."""

import math
from typing import Any

import numpy as np
import pytest

from data.case import CineCase
from data.scoring import images
from utils.metrics import psnr


def score(reference: images.Reference, grid: np.ndarray) -> dict[str, Any]:
    """The metrics of a reconstruction on the model grid."""
    return images.score_grid(reference, grid)[1]


def make_case(height: int = 48, width: int = 40, slices: int = 2, phases: int = 3, labelled: bool = True) -> CineCase:
    cine = np.random.default_rng(0).integers(1, 1000, (height, width, slices, phases)).astype(np.int16)
    mask = np.zeros((height, width, slices), np.uint8)
    mask[height // 2, width // 2, 0] = 3
    return CineCase(
        patient="patient001",
        cine=cine,
        masks={0: mask, 2: mask} if labelled else {},
        spacing_mm=(2.0, 2.0, 8.0),
        affine=np.eye(4),
        ed=0,
        es=2,
        group=None,
        height_cm=None,
        weight_kg=None,
        slope=1.0,
        intercept=0.0,
        source_hash="",
    )


def test_an_exact_reconstruction_is_exact_everywhere() -> None:
    reference = images.open_reference(make_case(), 32, "crop")
    found = score(reference, reference.prepared.image[0])
    assert found["psnr"] == found["psnr_heart"] == found["psnr_model_grid"] == math.inf
    assert found["ssim"] == pytest.approx(1.0)


def test_an_error_in_the_padding_is_never_scored() -> None:
    reference = images.open_reference(make_case(), 64, "crop")  # larger than the image on every side
    noise = np.random.default_rng(1).normal(0, 0.05, reference.prepared.image[0].shape)
    image = np.clip(reference.prepared.image[0] + noise, 0, 1)
    spoilt = image.copy()
    spoilt[:4], spoilt[-4:], spoilt[:, :4] = 1, 1, 1
    assert score(reference, spoilt) == score(reference, image)


def test_voxels_outside_the_crop_are_not_scored() -> None:
    reference = images.open_reference(make_case(), 32, "crop")
    assert reference.original.shape == (2, 3, 32, 32)
    found = score(reference, reference.prepared.image[0] * 0.5)
    assert found["psnr"] == pytest.approx(found["psnr_model_grid"], abs=1e-4)


def test_a_patients_psnr_is_the_mean_of_its_frames() -> None:
    reference = images.open_reference(make_case(), 32, "crop")
    image = reference.prepared.image[0] * np.linspace(0.5, 0.9, 3, dtype=np.float32)
    found = score(reference, image)
    frames = [[psnr(reference.original[z, t], image[..., z, t]) for t in range(3)] for z in range(2)]
    assert found["psnr"] == pytest.approx(np.mean(frames))
    np.testing.assert_allclose(found["curve"], np.mean(frames, axis=0))


def test_the_heart_is_scored_in_labelled_slices_alone() -> None:
    reference = images.open_reference(make_case(), 32, "crop")
    image = reference.prepared.image[0].copy()
    image[..., 1, :] = 0  # slice 1 has no label
    assert score(reference, image)["psnr_heart"] == math.inf
    image = reference.prepared.image[0].copy()
    image[..., 0, :] = 0
    assert score(reference, image)["psnr_heart"] < 20


def test_without_masks_the_heart_does_not_apply() -> None:
    reference = images.open_reference(make_case(labelled=False), 32, "crop")
    found = score(reference, reference.prepared.image[0])
    assert found["psnr_heart"] is None and found["heart_in_field"] is None


def test_the_share_of_the_heart_inside_the_field_is_told() -> None:
    case = make_case()
    assert images.open_reference(case, 48, "fit").heart_in_field == 1.0
    for mask in case.masks.values():
        mask[:] = 0
        mask[:, case.cine.shape[1] // 2, 0] = 1  # a line longer than the crop
    share = images.open_reference(case, 32, "crop").heart_in_field
    assert share is not None and 0.5 < share < 0.8


def test_the_ceiling_is_what_resampling_costs_and_absent_for_a_crop() -> None:
    assert images.ceiling(images.open_reference(make_case(), 32, "crop")) is None
    assert images.ceiling(images.open_reference(make_case(), 64, "fit")) is None  # nothing to shrink
    reference = images.open_reference(make_case(), 24, "fit")
    limit = images.ceiling(reference)
    assert limit == pytest.approx(score(reference, reference.prepared.image[0])["psnr"])
    assert limit is not None and limit < 20


def test_native_frames_are_scored_without_resampling() -> None:
    reference = images.open_reference(make_case(), 24, "fit")
    assert images.score_native(reference, reference.original)["psnr"] == math.inf
    assert score(reference, reference.prepared.image[0])["psnr"] < 20
    native = images.to_native(reference, reference.prepared.image[0])
    found = images.score_native(reference, native)
    assert found.items() < score(reference, reference.prepared.image[0]).items()


def test_bytes_of_native_frames_have_the_ratio_of_a_file_of_that_size() -> None:
    for size, mode in ((32, "crop"), (48, "fit")):
        reference = images.open_reference(make_case(), size, mode)
        rate = images.native_cost(reference, 100)
        assert rate == {"bytes_per_frame": 100 / 6, "ratio_int16": images.cost(reference, 100)["ratio_int16"]}


def test_ratios_count_the_voxels_inside_the_field_alone() -> None:
    crop = images.cost(images.open_reference(make_case(), 32, "crop"), 100)
    whole = images.cost(images.open_reference(make_case(), 48, "fit"), 100)
    assert crop["ratio_int16"] == 32 * 32 * 6 * 16 / 800
    assert whole["ratio_int16"] == 48 * 40 * 6 * 16 / 800
    assert crop["bits_per_frame"] == 800 / 6
    assert crop["ratio_true_depth"] == crop["ratio_int16"] * 10 / 16  # values below 1000 need 10 bits
