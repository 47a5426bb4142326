"""Pictures show what they say and are saved as PNG files."""

from pathlib import Path

import numpy as np
import pytest

from utils.report import figures


def test_base_and_apex_are_told_by_the_size_of_the_heart() -> None:
    area = np.array([0, 10, 30, 50, 60, 70, 80, 0])  # the apex is stored first
    picks = figures.pick_slices(8, area)
    assert [z for z, _ in picks] == [5, 4, 2]
    assert [name.split("\n")[0] for _, name in picks] == ["basal", "mid", "apical"]
    assert [z for z, _ in figures.pick_slices(8, area[::-1])] == [2, 4, 5]


@pytest.mark.parametrize("area", [None, np.array([0, 0, 5, 0, 0, 0])])
def test_without_masks_slices_have_numbers_and_no_anatomical_names(area: np.ndarray | None) -> None:
    assert figures.pick_slices(6, area) == [(1, "slice 2 of 6"), (3, "slice 4 of 6"), (4, "slice 5 of 6")]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_short_stacks_show_each_slice_once(depth: int) -> None:
    assert [z for z, _ in figures.pick_slices(depth, None)] == list(range(depth))


def test_phases_are_ed_and_es_where_known() -> None:
    assert figures.pick_phases(30, 0, 11) == [(0, "ED, phase 1 of 30"), (11, "ES, phase 12 of 30")]
    assert [t for t, _ in figures.pick_phases(30, None, 11)] == [0, 15]
    assert [t for t, _ in figures.pick_phases(1, None, None)] == [0]


def test_patients_of_different_lengths_meet_on_one_cycle() -> None:
    place, mean, std = figures.over_the_cycle([[20.0, 20.0, 40.0, 40.0], [30.0, 30.0]])
    np.testing.assert_allclose(place, [0.25, 0.75])
    np.testing.assert_allclose(mean, [25.0, 35.0])
    np.testing.assert_allclose(std, [50**0.5, 50**0.5])


def test_phases_that_do_not_apply_leave_a_gap() -> None:
    _, mean, std = figures.over_the_cycle([[20.0, float("nan"), float("inf")]])
    np.testing.assert_array_equal(mean, [20.0, np.nan, np.nan])
    np.testing.assert_array_equal(std, 0)


def test_pictures_are_png_files(tmp_path: Path) -> None:
    cine = np.random.default_rng(0).random((3, 4, 16, 20))
    slices, phases = figures.pick_slices(3, None), figures.pick_phases(4, None, None)
    picture = figures.Picture(cine, cine * 0.9, (1.5, 1.0), slices, phases, 8, "20 dB at 100 bits a frame")
    figures.draw_frames(tmp_path / "frames.png", picture)
    figures.draw_profile(tmp_path / "profile.png", picture)
    figures.draw_phase_curve(tmp_path / "curve.png", {"a": [[20.0, 21.0]], "b": [[10.0, 12.0]]}, "data")
    for name in ("frames", "profile", "curve"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
