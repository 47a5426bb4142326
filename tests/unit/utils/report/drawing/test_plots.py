"""Plots join patients on one cycle, and show each model at its rate."""

import math
from pathlib import Path

import numpy as np

from utils.report.drawing import plots


def test_patients_of_different_lengths_meet_on_one_cycle() -> None:
    place, mean, std = plots.over_the_cycle([[20.0, 20.0, 40.0, 40.0], [30.0, 30.0]])
    np.testing.assert_allclose(place, [0.25, 0.75])
    np.testing.assert_allclose(mean, [25.0, 35.0])
    np.testing.assert_allclose(std, [50**0.5, 50**0.5])


def test_phases_that_do_not_apply_leave_a_gap() -> None:
    _, mean, std = plots.over_the_cycle([[20.0, float("nan"), float("inf")]])
    np.testing.assert_array_equal(mean, [20.0, np.nan, np.nan])
    np.testing.assert_array_equal(std, 0)


def test_models_are_drawn_over_their_bytes_with_dice_where_hearts_were_scored(tmp_path: Path) -> None:
    points = [plots.RatePoint("a", rate, rate / 10, rate / 1000) for rate in (10.0, 500.0)]
    points.append(plots.RatePoint("b", 20.0, 30.0, math.nan))
    with_dice = plots.draw_rates(tmp_path / "rates.png", points, 0.9, "data")
    without = plots.draw_rates(tmp_path / "rates.png", [p._replace(dice=math.nan) for p in points], math.nan, "data")
    assert [svg.count(b'id="axes_') for svg in (with_dice, without)] == [2, 1]


def test_more_lines_than_colours_differ_in_kind(tmp_path: Path) -> None:
    curves = {f"model {i}": [[20.0 + i, 21.0 + i]] for i in range(8)}
    svg = plots.draw_phase_curve(tmp_path / "curve.png", curves, "data")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert svg.count(b"stroke-dasharray") == 4  # two lines, in the plot and in the legend
