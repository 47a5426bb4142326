"""Clinical equivalence, against figures worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr

from utils.equivalence import (
    Margins,
    Measured,
    agreement,
    by_group,
    certain_ratio,
    changes,
    criterion,
    excess,
    headline,
    highest_ratio,
    interval,
    paired_test,
    resampled,
    worst_group,
)

N = 8
RATIO = np.array([50.0, 100.0, 200.0, 400.0])


def measured(drop: list[float], bias: list[float], noise: float = 0.0) -> Measured:
    """A method of four settings that lowers Dice by `drop` and moves the EF by `bias` in every patient."""
    truth = np.linspace(20, 70, N)
    original = truth + np.tile([1.0, -1.0], N // 2)
    spread = noise * np.tile([1.0, 1.0, -1.0, -1.0], N // 4)
    ef = original + np.array(bias)[:, None] + np.arange(4)[:, None] * spread
    return Measured(
        "ours", "network", list("abcd"), 4000 / RATIO, RATIO, 40 - np.log2(RATIO),
        {"dice_mean": 0.9 - np.array(drop)[:, None] + np.zeros(N), "lv_ef": ef},
        {"dice_mean": np.full(N, 0.9), "lv_ef": original}, {"lv_ef": truth}, ["DCM", "NOR"] * (N // 2),
    )  # fmt: skip


EVERYONE = np.arange(N)[None]


def test_the_changes_are_the_decrease_of_dice_the_bias_of_ef_and_the_wider_limits() -> None:
    found = changes(measured([0, 0.01, 0.02, 0.04], [0, 0.5, -1, 2], noise=1.0), EVERYONE)
    assert found["dice"][0] == pytest.approx([0, 0.01, 0.02, 0.04])
    assert found["ef_bias"][0] == pytest.approx([0, 0.5, -1, 2])
    reach = 1.96 * math.sqrt(N / (N - 1)) * np.sqrt([1, 1 + 1, 1 + 4, 1 + 9])  # two independent patterns of signs
    assert found["ef_limits"][0] == pytest.approx(reach - reach[0])


def test_the_highest_ratio_is_interpolated_where_the_first_change_passes_its_margin() -> None:
    margins, none = Margins(), [0.0] * 4
    cases = (
        (measured([0, 0.005, 0.015, 0.03], none), 100 * math.sqrt(2)),
        (measured([0, 0.001, 0.002, 0.003], [0, 0.5, -1.5, 0]), 100 * math.sqrt(2)),
        (measured([0.02, 0, 0, 0], none), 0.0),
        (measured([0, 0, 0, 0.009], none), math.inf),
        (measured([0, 0.02, 0, 0], none), 50 * math.sqrt(2)),  # a later setting does not count again
    )
    for one, expected in cases:
        assert highest_ratio(RATIO, excess(changes(one, EVERYONE), margins)[0]) == pytest.approx(expected)


def test_an_unknown_ef_is_never_equivalent() -> None:
    one = measured([0, 0, 0, 0], [0, 0, 0, 0])
    one.hearts["lv_ef"][2, 5] = math.nan
    worst = excess(changes(one, EVERYONE), Margins())[0]
    assert np.isinf(worst[2]) and highest_ratio(RATIO, worst) == 100
    assert [row["equivalent"] for row in criterion(one, Margins(), resampled(N, 100))] == [True, True, False, True]


def test_equal_patients_have_an_interval_without_width_and_others_one_around_the_ratio() -> None:
    patients = resampled(N, 500)
    same = headline(measured([0, 0.005, 0.015, 0.03], [0] * 4), Margins(), patients)
    assert same["interval"] == pytest.approx((same["ratio"], same["ratio"]))
    assert same["bytes_per_frame"] == pytest.approx(4000 / same["ratio"])
    varied = measured([0, 0.005, 0.015, 0.03], [0] * 4)
    varied.hearts["dice_mean"][1:] += np.linspace(-0.01, 0.01, N)
    found = headline(varied, Margins(), patients)
    low, high = found["interval"]
    assert low < found["ratio"] < high and found["ratio"] == pytest.approx(same["ratio"])


def test_a_ratio_is_certain_only_where_whole_intervals_are_within_the_margins() -> None:
    one = measured([0, 0.005, 0.009, 0.02], [0] * 4)
    one.hearts["dice_mean"][2] += np.linspace(-0.01, 0.01, N)  # the same mean, and an interval beyond the margin
    rows = criterion(one, Margins(), resampled(N, 500))
    assert [row["equivalent"] for row in rows] == [True, True, True, False]
    assert [row["certain"] for row in rows] == [True, True, False, False] and certain_ratio(RATIO, rows) == 100
    assert certain_ratio(RATIO, rows[2:]) is None and certain_ratio(RATIO[:2], rows[:2]) == 100


def test_equal_arguments_give_equal_resamples_of_whole_patients() -> None:
    assert np.array_equal(resampled(5, 100), resampled(5, 100)) and resampled(5, 100).shape == (100, 5)
    assert set(np.unique(resampled(5, 100))) == set(range(5))
    assert interval(np.arange(1, 1001)) == (25, 975) and math.isnan(interval(np.array([1.0, math.nan, 2.0]))[1])


def test_agreement_has_the_limits_of_bland_and_altman_and_the_correlation_of_scipy() -> None:
    random = np.random.default_rng(0)
    x = random.normal(50, 10, 20)
    y = x + random.normal(2, 1, 20)
    found, patients = agreement(x, y, resampled(20, 1000)), y - x
    assert found["bias"] == pytest.approx(patients.mean()) and found["n"] == 20
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * patients.std(ddof=1))
    assert found["correlation"] == pytest.approx(pearsonr(x, y).statistic)
    for key, value in (("bias", found["bias"]), ("correlation", found["correlation"])):
        assert found[f"{key}_interval"][0] < value < found[f"{key}_interval"][1]
    y[3] = math.nan
    unknown = agreement(x, y, resampled(20, 1000))
    assert unknown["n"] == 19 and math.isfinite(unknown["bias"]) and math.isnan(unknown["bias_interval"][0])


def test_a_shift_of_all_patients_is_significant_and_no_change_is_not() -> None:
    before = np.linspace(0.8, 0.95, 10)
    assert paired_test(before, before) == 1
    assert paired_test(before, before - np.linspace(0.01, 0.02, 10)) < 0.01


def test_the_worst_group_has_the_largest_change_in_units_of_the_margins() -> None:
    one = measured([0, 0.02, 0, 0], [0] * 4)
    one.hearts["lv_ef"][1, ::2] += 3  # the first group, DCM
    groups = by_group(one, 1)
    assert groups["DCM"] == {"n": 4, "dice": pytest.approx(0.02), "ef_bias": pytest.approx(3)}
    assert worst_group(groups, Margins()) == "DCM" and worst_group(groups, replace(Margins(), ef_bias=100)) in groups


def test_no_pair_has_no_p_value_and_equal_pairs_have_1() -> None:
    unknown, values = np.full(5, math.nan), np.arange(5.0)
    assert math.isnan(paired_test(unknown, values)) and paired_test(values, values) == 1
