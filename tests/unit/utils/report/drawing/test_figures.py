"""Pictures show what they say and are saved as PNG files."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from utils.report.drawing import figures


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


@pytest.fixture
def picture() -> figures.Picture:
    cine = np.random.default_rng(0).random((3, 4, 16, 20))
    slices, phases = figures.pick_slices(3, None), figures.pick_phases(4, None, None)
    return figures.Picture(cine, cine * 0.9, (1.5, 1.0), slices, phases, 8, "20 dB at 100 bits a frame")


def test_pictures_are_png_files_and_svg_of_the_same_bytes_each_time(tmp_path: Path, picture: figures.Picture) -> None:
    def draw(folder: Path) -> dict[str, bytes]:
        return {
            "frames": figures.draw_frames(folder / "frames.png", picture),
            "profile": figures.draw_profile(folder / "profile.png", picture),
        }

    first, second = draw(tmp_path / "first"), draw(tmp_path / "second")
    assert first == second
    for name, svg in first.items():
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        files = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("first", "second")]
        assert files[0].startswith(b"\x89PNG") and files[0] == files[1]


def test_lines_and_texts_of_an_svg_follow_the_dark_mode(tmp_path: Path, picture: figures.Picture) -> None:
    svg = figures.draw_frames(tmp_path / "frames.png", picture).decode()
    assert "@media (prefers-color-scheme:dark)" in svg and "var(--paper)" in svg
    fixed = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))
    assert not fixed & set(figures.THEMED)
