"""The report says what was measured, on what, at which rate; and needs no other file."""

import csv
import io
import math
import re
from pathlib import Path
from typing import Any

import pytest

from utils.report import evaluation


def make_row(patient: str, value: float, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"patient": patient, "slices": 2, "phases": 3, **dict.fromkeys(evaluation.FIGURES, value)}
    quality = dict.fromkeys(evaluation.QUALITY, value / 2)
    return {**row, "psnr_ceiling": None, "curve": [value] * 3, "baselines": {"mean_frame": quality}, **changes}


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    return {
        "stage1": [make_row("patient001", 20.0), make_row("patient002", 30.0)],
        "stage2": [make_row("patient001", 30.0), make_row("patient002", 40.0)],
    }


@pytest.fixture
def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    made = evaluation.summarize(rows, {"mean_frame": "of 2 train patients"})
    about = {"data": "acdc_wds", "modality": "4d_mri", "split": "test", "notes": ["the field is <S>"]}
    return {**made, **about, "command_line": "python scripts/evaluate.py"}


def test_the_summary_reports_the_last_model_and_keeps_the_others(summary: dict[str, Any]) -> None:
    assert summary["model"] == "stage2"
    assert summary["mean"]["psnr"] == 35.0 and summary["n"] == 2
    assert summary["std"]["psnr"] == pytest.approx(math.sqrt(50))
    assert summary["models"]["stage1"]["mean"]["psnr"] == 25.0
    assert summary["baselines"]["mean_frame"]["mean"]["psnr"] == 17.5
    assert summary["cohort"] == {"patients": 2, "slices": 4, "frames": 12}
    assert "Research use only" in summary["note"]


def test_best_median_and_worst_are_chosen_by_psnr() -> None:
    rows = [make_row(f"p{i}", psnr) for i, psnr in enumerate([30.0, 10.0, 50.0, 20.0, 40.0])]
    assert {name: row["patient"] for name, row in evaluation.choose(rows).items()} == {
        "best": "p2",
        "median": "p0",
        "worst": "p1",
    }


@pytest.mark.parametrize(("count", "names"), [(1, ["best"]), (2, ["best", "worst"]), (3, ["best", "median", "worst"])])
def test_few_patients_are_shown_once_each(count: int, names: list[str]) -> None:
    chosen = evaluation.choose([make_row(f"p{i}", float(i)) for i in range(count)])
    assert list(chosen) == names
    assert len({row["patient"] for row in chosen.values()}) == count


def test_the_csv_has_one_row_a_model_and_patient(rows: dict[str, list[dict[str, Any]]]) -> None:
    found = list(csv.DictReader(io.StringIO(evaluation.csv_text(rows))))
    assert [(row["model"], row["patient"]) for row in found] == [
        ("stage1", "patient001"),
        ("stage1", "patient002"),
        ("stage2", "patient001"),
        ("stage2", "patient002"),
    ]
    assert float(found[3]["psnr"]) == 40.0
    assert found[0]["psnr_ceiling"] == ""


def test_the_comparison_lists_models_then_baselines(summary: dict[str, Any]) -> None:
    headings, lines = evaluation.comparison(summary)
    assert [line[0] for line in lines] == ["stage1", "stage2", "baseline: mean_frame"]
    assert all(len(line) == len(headings) for line in lines)
    assert lines[1][1] == "35.00 ± 7.07"
    assert lines[2][headings.index("bits/frame")] == "–"


def test_a_figure_that_fewer_reconstructions_than_originals_have_says_of_how_many_it_is() -> None:
    figures = {"psnr": 20.0, "lv_ef_error": 4.0, "lv_ef_error_original": 1.0}
    entry = {
        "mean": figures,
        "std": dict.fromkeys(figures, math.nan),
        "n_of": {**dict.fromkeys(figures, 2), "lv_ef_error": 1},
    }
    headings, (row,) = evaluation.comparison({"models": {"stage1": entry}, "baselines": {}})
    assert row[headings.index("LV EF error")] == "4.0 (n = 1)"
    assert row[headings.index("LV EF error, original")] == "1.0" and row[headings.index("PSNR (dB)")] == "20.00"


def test_a_text_table_is_aligned() -> None:
    lines = evaluation.text_table(["", "PSNR"], [["model", "1.0"], ["m", "10.0"]]).split("\n")
    assert len({len(line) for line in lines}) == 1


def test_a_caption_states_quality_rate_and_data(summary: dict[str, Any]) -> None:
    row = make_row("patient007", 30.0, psnr=31.5, ssim=0.9, bits_per_frame=512.0, ratio_int16=683.0)
    text = evaluation.caption(row, summary)
    for part in ("patient007", "acdc_wds", "test", "stage2", "31.50 dB", "0.900", "512 bits a frame", "683x"):
        assert part in text


def test_the_page_needs_no_other_file_and_escapes_what_it_is_told(
    tmp_path: Path, rows: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    figure = evaluation.Figure("Best", 'a "quoted" <caption>', tmp_path / "a.png")
    page = evaluation.html_page(summary, rows["stage2"], [figure])
    assert "the field is &lt;S&gt;" in page and "&lt;caption&gt;" in page
    assert re.findall(r'src="([^"]{0,22})', page) == ["data:image/png;base64,"]
    assert not re.search(r"https?:|<script|<link|url\(", page)
    assert str(tmp_path) not in page
    assert "Research use only, not a medical device" in page


def test_arguments_are_shown_without_private_folders() -> None:
    arguments = {
        "model": [Path("/home/someone/run"), Path("out/run2")],
        "data": Path("/mnt/x y"),
        "limit": None,
        "n": 3,
    }
    found = evaluation.public_arguments(arguments)
    assert found == {"model": ["run", "out/run2"], "data": "x y", "n": 3}
    assert evaluation.command_line("s.py", {"sweep": True, "steps": [2, 4]}) == "python s.py --sweep --steps 2 4"
    line = evaluation.command_line("scripts/evaluate.py", found)
    assert line == "python scripts/evaluate.py --model run out/run2 --data 'x y' --n 3"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (math.nan, "–"), (math.inf, "exact"), (1234.567, "1,234.57"), (-0.5, "-0.50")]
)
def test_numbers_are_written_with_their_decimals(value: float | None, text: str) -> None:
    assert evaluation.number(value, 2) == text
