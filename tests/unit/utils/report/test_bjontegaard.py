"""Differences between rate-distortion curves have known answers."""

import math

import numpy as np
import pytest

from utils.report.bjontegaard import bjontegaard

RATE, PSNR = [686.76, 309.58, 157.11, 85.95], [40.28, 37.18, 34.24, 31.42]


def test_published_curves_have_the_answer_of_the_reference_implementation() -> None:
    """The expected values are those of the PyPI package bjontegaard 1.3.0, method pchip."""
    found = bjontegaard(RATE, PSNR, [893.34, 407.8, 204.93, 112.75], [40.39, 37.21, 34.17, 31.24])
    assert found.rate_percent == pytest.approx(31.379878, abs=1e-4)
    assert found.quality == pytest.approx(-1.183472, abs=1e-4)


def test_a_fifth_less_of_every_rate_is_minus_20_percent_and_a_gain_by_the_slope_of_the_curve() -> None:
    rate = np.array([100, 200, 300, 500, 900.0])
    quality = 10 + 10 * np.log10(rate)
    found = bjontegaard(rate, quality, 0.8 * rate, quality)
    assert found == pytest.approx((-20, 10 * math.log10(1 / 0.8)))


def test_a_curve_against_itself_is_0_in_any_order_of_its_points() -> None:
    assert bjontegaard(RATE, PSNR, RATE[::-1], PSNR[::-1]) == pytest.approx((0, 0), abs=1e-12)


def test_points_that_cost_more_and_are_no_better_are_left_out() -> None:
    found = bjontegaard([*RATE, 700, 157.11], [*PSNR, 39, 20], RATE, PSNR)
    assert found == pytest.approx((0, 0), abs=1e-12)


def test_curves_without_a_common_range_or_with_fewer_than_four_points_have_no_difference() -> None:
    apart = bjontegaard(RATE, PSNR, [rate / 100 for rate in RATE], [psnr - 30 for psnr in PSNR])
    assert math.isnan(apart.rate_percent) and math.isnan(apart.quality)
    few = bjontegaard(RATE, PSNR, RATE[:3], PSNR[:3])
    assert math.isnan(few.rate_percent) and math.isnan(few.quality)


@pytest.mark.parametrize("rate", [[1, 2, 3], [0, 1, 2, 3], [1, 2, 3, math.inf]])
def test_rates_that_are_none_are_refused(rate: list[float]) -> None:
    with pytest.raises(ValueError, match="rates above 0"):
        bjontegaard(rate, PSNR, RATE, PSNR)
