"""The page of a comparison holds what was measured, and no text of data adds an element to it."""

from pathlib import Path
from typing import Any

from tests.pages import HOSTILE, PLAIN, elements_of
from utils.report import rate_distortion


def rows(name: str = "x265", points: int = 4, factor: float = 1.0) -> list[dict[str, Any]]:
    return [
        {"method": name, "setting": f"CRF {20 + 6 * i}", "model": False, "bytes_per_frame": factor * 1000 / 2**i,
         "ratio_int16": 30.0 * 2**i, "psnr": 42.0 - 3 * i, "ssim": 0.98 - 0.02 * i, "psnr_heart": None}
        for i in range(points)
    ]  # fmt: skip


def one(name: str) -> dict[str, Any]:
    return {**rows(name, 1)[0], "setting": "all tokens", "model": True, "dice_mean": 0.7}


def page(text: str, folder: Path) -> str:
    picture = folder / "curves.png"
    picture.write_bytes(b"")
    points = [*rows(text), *rows("svt_av1"), one(f"model {text}")]
    summary = {
        "points": points, "original": {"dice_mean": 0.85}, "taught": {}, "notes": [text], "caption": text,
        "note": text, "differences": rate_distortion.differences(points), "command_line": text,
    }  # fmt: skip
    return rate_distortion.html_page(summary, picture)


def test_no_text_adds_an_element_to_the_page(tmp_path: Path) -> None:
    assert elements_of(page(HOSTILE, tmp_path)) == elements_of(page(PLAIN, tmp_path))


def test_only_methods_of_four_points_or_more_have_a_difference() -> None:
    found = rate_distortion.differences([*rows(), *rows("svt_av1", factor=0.8), *rows("short", 3), one("stage2")])
    (pair,) = found
    assert (pair["anchor"], pair["method"]) == ("x265", "svt_av1")
    assert abs(pair["rate_percent"] + 20) < 1e-9 and pair["psnr_db"] > 0


def test_curves_without_a_common_range_have_a_dash() -> None:
    far = [{**row, "psnr": row["psnr"] - 30, "bytes_per_frame": row["bytes_per_frame"] / 1000} for row in rows("far")]
    found = rate_distortion.differences([*rows(), *far])
    assert rate_distortion.difference_table(found).rows == [["far", "x265", "–", "–"]]


def test_the_table_marks_hearts_of_taught_models_and_ends_with_the_original() -> None:
    table = rate_distortion.point_table([*rows(), one("stage2")], {"dice_mean": 0.85}, ["stage2"])
    dice = table.headings.index("Dice")
    assert [row[dice] for row in table.rows] == ["–"] * 4 + ["0.700 †", "0.850"]
    assert table.rows[-1][0] == "original"


def test_the_csv_has_one_line_a_point_and_empty_cells_where_nothing_applies() -> None:
    lines = rate_distortion.csv_text(rows()).splitlines()
    assert lines[0] == "method,setting,bytes_per_frame,ratio_int16,psnr,ssim,psnr_heart"
    assert len(lines) == 5 and lines[1] == "x265,CRF 20,1000.0,30.0,42.0,0.98,"


def test_the_picture_is_drawn_with_and_without_hearts(tmp_path: Path) -> None:
    rate_distortion.draw(tmp_path / "a.png", rows(), {}, "n = 1")
    rate_distortion.draw(tmp_path / "b.png", [*rows(), one("stage2")], {"dice_mean": 0.85}, "n = 1")
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("a.png", "b.png"))
