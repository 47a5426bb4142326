"""Laws of the published figures: image quality, heart region, rate, and the means over frames and patients."""

import gzip
import math

import nibabel as nib
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from utils import metrics


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).random((24, 20))


def test_psnr_of_a_known_error_is_known(frame: np.ndarray) -> None:
    flat = np.full((16, 16), 0.5)
    assert metrics.psnr(flat, flat + 0.1) == pytest.approx(20.0)
    assert metrics.psnr(flat, flat - 0.01) == pytest.approx(40.0)


def test_psnr_of_known_noise_is_known() -> None:
    noise = np.random.default_rng(1).normal(0, 0.02, (200, 200))
    assert metrics.psnr(np.full((200, 200), 0.5), 0.5 + noise) == pytest.approx(-20 * math.log10(0.02), abs=0.1)


def test_identity_is_infinite_psnr_and_ssim_one(frame: np.ndarray) -> None:
    assert metrics.psnr(frame, frame) == math.inf
    assert metrics.ssim(frame, frame) == pytest.approx(1.0)


def test_both_metrics_are_symmetric_and_ssim_stays_below_one(frame: np.ndarray) -> None:
    other = np.random.default_rng(2).random(frame.shape)
    assert metrics.psnr(frame, other) == metrics.psnr(other, frame)
    assert metrics.ssim(frame, other) == pytest.approx(metrics.ssim(other, frame))
    assert metrics.ssim(frame, other) < 0.5


def test_ssim_of_two_flat_frames_follows_the_formula() -> None:
    a, b, c1 = 0.4, 0.6, 0.01**2
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    assert metrics.ssim(np.full((16, 16), a), np.full((16, 16), b)) == pytest.approx(expected)


def test_ssim_is_what_scikit_image_returns(frame: np.ndarray) -> None:
    other = np.random.default_rng(2).random(frame.shape)
    expected = structural_similarity(
        frame, other, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(frame, other) == expected


def test_ssim_of_a_mask_leaves_out_the_rim_where_the_window_reaches_beyond_the_frame(frame: np.ndarray) -> None:
    other, rim = frame.copy(), np.ones(frame.shape, bool)
    rim[5:-5, 5:-5] = False
    other[12, 10] = 1 - other[12, 10]
    assert math.isnan(metrics.ssim(frame, other, rim))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_values_are_clamped_on_both_sides(metric: metrics.Metric, frame: np.ndarray) -> None:
    other = np.random.default_rng(3).random(frame.shape)
    wild, clamped = 3 * other - 1, np.clip(3 * other - 1, 0, 1)
    assert metric(frame, wild) == metric(frame, clamped)
    assert metric(wild, frame) == metric(clamped, frame)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_padding_is_never_scored(metric: metrics.Metric, frame: np.ndarray) -> None:
    other = np.random.default_rng(4).random(frame.shape)
    field = np.zeros((40, 40), bool)
    field[9:33, 11:31] = True
    scores = []
    for padding_x, padding_y in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.3)):
        x, y = np.full((40, 40), padding_x), np.full((40, 40), padding_y)
        x[field], y[field] = frame.ravel(), other.ravel()
        scores.append(metric(x, y, field))
    assert scores == [metric(frame, other)] * 3


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_an_empty_mask_does_not_apply(metric: metrics.Metric, frame: np.ndarray) -> None:
    assert math.isnan(metric(frame, frame, np.zeros(frame.shape, bool)))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_a_reconstruction_with_nan_is_refused(metric: metrics.Metric, frame: np.ndarray) -> None:
    broken = frame.copy()
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        metric(frame, broken)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_frames_of_different_shapes_are_refused(metric: metrics.Metric, frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\(24, 20\).*\(20, 24\)"):
        metric(frame, frame.T)


def test_a_field_below_the_ssim_window_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="at least 11 x 11"):
        metrics.ssim(np.zeros((10, 30)), np.zeros((10, 30)))


def test_frame_scores_keep_slices_and_phases_apart() -> None:
    x = np.full((2, 3, 12, 12), 0.5)
    y = x.copy()
    y[1, 2] += 0.1
    scores = metrics.frame_scores(metrics.psnr, x, y)
    assert scores.shape == (2, 3)
    assert scores[1, 2] == pytest.approx(20.0)
    assert np.isinf(np.delete(scores.ravel(), 5)).all()


def test_frame_scores_take_a_mask_for_each_slice() -> None:
    x = np.full((2, 1, 12, 12), 0.5)
    y = x.copy()
    y[..., 0, 0] = 0.6
    mask = np.zeros((2, 12, 12), bool)
    mask[0, 0, 0] = True
    scores = metrics.frame_scores(metrics.psnr, x, y, mask)
    assert scores[0, 0] == pytest.approx(20.0)
    assert math.isnan(scores[1, 0])


def test_exact_and_inapplicable_frames_are_left_out_of_a_mean() -> None:
    assert metrics.finite_mean([30.0, math.inf, None, math.nan, 40.0]) == 35.0
    assert metrics.finite_mean([math.inf, math.nan]) == math.inf
    assert math.isnan(metrics.finite_mean([math.nan, None]))


def test_a_patient_counts_once_however_many_frames_it_has() -> None:
    patients = [{"psnr": metrics.finite_mean([20.0] * 100)}, {"psnr": metrics.finite_mean([40.0])}]
    summary = metrics.cohort(patients, ["psnr"])
    assert summary["mean"]["psnr"] == 30.0
    assert summary["std"]["psnr"] == pytest.approx(math.sqrt(200))
    assert summary["n"] == 2


def test_a_cohort_says_how_many_patients_stand_behind_each_figure() -> None:
    summary = metrics.cohort(
        [{"psnr": 30.0, "psnr_heart": None}, {"psnr": 32.0, "psnr_heart": 28.0}], ["psnr", "psnr_heart"]
    )
    assert summary["n_of"] == {"psnr": 2, "psnr_heart": 1}
    assert summary["mean"]["psnr_heart"] == 28.0
    assert math.isnan(summary["std"]["psnr_heart"])


def test_the_heart_region_reaches_ten_millimetres_in_plane_and_never_across_slices() -> None:
    ed, es = np.zeros((60, 60, 3), np.uint8), np.zeros((60, 60, 3), np.uint8)
    ed[30, 30, 1] = 3
    es[30, 31, 1] = 1
    region = metrics.heart_region([ed, es], (2.0, 1.0, 5.0))
    assert region is not None
    assert not region[..., 0].any() and not region[..., 2].any()
    rows, columns = metrics.bounding_box(region[..., 1])
    assert (rows.start, rows.stop) == (25, 36)  # 10 mm are 5 rows of 2 mm
    assert (columns.start, columns.stop) == (20, 42)  # and 10 columns of 1 mm around columns 30 and 31


def test_without_masks_there_is_no_heart_region() -> None:
    assert metrics.heart_region([], (1.0, 1.0, 8.0)) is None


def test_the_bounding_box_of_an_empty_mask_is_an_error() -> None:
    with pytest.raises(ValueError, match="no True pixel"):
        metrics.bounding_box(np.zeros((4, 4), bool))


@pytest.mark.parametrize(
    ("values", "bits"), [([0, 255], 8), ([0, 256], 9), ([0, 4095], 12), ([0, 0], 1), ([-256, 255], 9), ([-1, 0], 1)]
)
def test_the_true_depth_is_what_the_largest_value_needs(values: list[int], bits: int) -> None:
    assert metrics.true_depth_bits(np.array(values, np.int16)) == bits


def test_fractional_values_count_their_own_width() -> None:
    assert metrics.true_depth_bits(np.array([0.5], np.float32)) == 32


def test_the_nii_gz_holds_every_value_once() -> None:
    cine = np.random.default_rng(0).integers(0, 4000, (8, 8, 2, 3)).astype(np.int32)
    expected = nib.Nifti1Image(cine.astype(np.int16), np.eye(4)).to_bytes()
    assert metrics.nii_gz_bytes(cine, np.eye(4)) == len(gzip.compress(expected, 6))


def test_values_beyond_int16_are_not_wrapped_around_in_the_nii_gz() -> None:
    wide = np.arange(40000, 40000 + 512).reshape(8, 8, 4, 2)
    assert metrics.nii_gz_bytes(wide, np.eye(4)) == metrics.nii_gz_bytes(wide.astype(np.uint16), np.eye(4))


def test_rates_follow_from_the_bits_of_the_file() -> None:
    found = metrics.rates(bits=8000, frames=10, voxels=100_000, depth_bits=12, gz_bytes=50_000)
    assert found == {
        "bits": 8000.0,
        "bits_per_frame": 800.0,
        "ratio_int16": 200.0,
        "ratio_true_depth": 150.0,
        "ratio_nii_gz": 50.0,
    }


def test_a_rate_of_an_empty_file_is_refused() -> None:
    with pytest.raises(ValueError, match="0 bits"):
        metrics.rates(0, 1, 1, 16, 1)


def test_a_steady_cine_does_not_flicker_and_noise_and_jumps_do() -> None:
    rng = np.random.default_rng(0)
    still = np.repeat(rng.random((2, 1, 4, 4)), 8, axis=1)
    assert metrics.flicker(still) == 0 and np.isnan(metrics.flicker(still[:, :2]))
    jump = still.copy()
    jump[:, 3] = 1 - jump[:, 3]
    noisy = np.clip(still + 0.1 * rng.standard_normal(still.shape), 0, 1)
    assert metrics.flicker(jump) > 0.1 and metrics.flicker(noisy) > 0.05
    assert metrics.flicker(np.roll(noisy, 3, axis=1)) == pytest.approx(metrics.flicker(noisy))


def test_detail_is_one_for_the_original_less_for_a_blur_and_more_for_noise() -> None:
    rng = np.random.default_rng(0)
    original = rng.random((2, 3, 16, 20))
    blurred = (original + np.roll(original, 1, -1) + np.roll(original, 1, -2) + np.roll(original, (1, 1), (-2, -1))) / 4
    assert metrics.high_frequency_ratio(original, original) == pytest.approx(1)
    assert metrics.high_frequency_ratio(original, blurred) < 0.3
    assert metrics.high_frequency_ratio(blurred, original) > 3
    assert math.isnan(metrics.high_frequency_ratio(np.ones((1, 1, 8, 8)), original[:1, :1, :8, :8]))
