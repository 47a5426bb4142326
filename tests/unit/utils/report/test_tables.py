"""The tables of an evaluation hold each model, baseline and patient once, with the decimals of their columns."""

import csv
import io
import math
from typing import Any

import pytest

from tests.unit.utils.report.rows import make_row, make_rows, make_summary, with_heart
from utils.report import tables
from utils.report.columns import Table


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    return make_rows()


@pytest.fixture
def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return make_summary(rows)


def test_the_comparison_lists_models_then_baselines(summary: dict[str, Any]) -> None:
    headings, lines = tables.comparison(summary)
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
    headings, (row,) = tables.comparison({"models": {"stage1": entry}, "baselines": {}})
    assert row[headings.index("LV EF error")] == "4.0 (n = 1)"
    assert row[headings.index("LV EF error, original")] == "1.0" and row[headings.index("PSNR (dB)")] == "20.00"


def test_a_text_table_is_aligned() -> None:
    lines = tables.text_table(["", "PSNR"], [["model", "1.0"], ["m", "10.0"]]).split("\n")
    assert len({len(line) for line in lines}) == 1


def test_the_csv_has_one_row_a_model_and_patient(rows: dict[str, list[dict[str, Any]]]) -> None:
    found = list(csv.DictReader(io.StringIO(tables.csv_text(rows))))
    assert [(row["model"], row["patient"]) for row in found] == [
        ("stage1", "patient001"),
        ("stage1", "patient002"),
        ("stage2", "patient001"),
        ("stage2", "patient002"),
    ]
    assert float(found[3]["psnr"]) == 40.0
    assert found[0]["psnr_ceiling"] == ""


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (math.nan, "–"), (math.inf, "exact"), (1234.567, "1,234.57"), (-0.5, "-0.50")]
)
def test_numbers_are_written_with_their_decimals(value: float | None, text: str) -> None:
    assert tables.number(value, 2) == text


def test_the_csv_has_the_heart_s_columns_where_a_patient_was_scored() -> None:
    rows = {"stage1": [with_heart(make_row("patient001", 20.0)), make_row("patient002", 30.0)]}
    rows["stage1"] = [{**row, "segmenter_taught_model": 1} for row in rows["stage1"]]
    lines = list(csv.DictReader(io.StringIO(tables.csv_text(rows, ["dice_mean", "lv_edv"]))))
    assert [(line["dice_mean"], line["segmenter_taught_model"]) for line in lines] == [("0.5", "1"), ("", "1")]
    assert "dice_mean" not in tables.csv_text(make_rows(), ["dice_mean"])


def test_heart_metrics_of_a_model_and_its_baselines_are_marked_where_the_segmenter_taught_it() -> None:
    rows = {name: [with_heart(make_row("patient001", 20.0))] for name in ("mean_frame", "stage2")}
    for row in rows["stage2"]:
        row["baselines"]["mean_frame"]["dice_mean"] = 0.5
    summary = make_summary(rows)
    summary["reference_segmenter"] = {"name": "other", "independent_of": {"mean_frame": True, "stage2": False}}
    headings, lines = tables.comparison(summary)
    dice = [(line[0], line[headings.index("Dice")]) for line in lines]
    assert dice == [("mean_frame", "0.500"), ("stage2", "0.500 †"), ("baseline: mean_frame", "0.500 †")]


def test_the_patients_are_sorted_by_name(rows: dict[str, list[dict[str, Any]]]) -> None:
    table = tables.patient_table(rows["stage1"][::-1])
    assert [row[:4] for row in table.rows] == [["patient001", "2", "3", "20.00"], ["patient002", "2", "3", "30.00"]]
    assert all(len(row) == len(table.headings) for row in table.rows)


def test_columns_with_equal_cells_are_left_out_and_said_in_one_sentence() -> None:
    table = Table(["", "PSNR", "bits/frame", "ceiling"], [["a", "1.0", "88.5", "–"], ["b", "2.0", "88.5", "–"]])
    headings, lines, note = tables.hide_equal(table)
    assert (headings, lines) == (["", "PSNR"], [["a", "1.0"], ["b", "2.0"]])
    assert note == "The same in all rows: bits/frame: 88.5. Without a value: ceiling."


def test_of_a_single_row_only_empty_cells_are_left_out() -> None:
    table = Table(["", "bits", "ceiling"], [["a", "5", "–"]])
    assert tables.hide_equal(table) == (["", "bits"], [["a", "5"]], "Without a value: ceiling.")


def test_a_column_with_one_missing_value_is_shown() -> None:
    table = Table(["", "bits"], [["a", "5"], ["b", "–"]])
    assert tables.hide_equal(table) == (*table, "")


def test_the_page_has_images_hearts_and_baselines_in_tables_of_their_own() -> None:
    rows = {name: [with_heart(make_row("patient001", 20.0))] for name in ("stage1", "stage2")}
    summary = make_summary(rows)
    image, hearts, baselines = tables.image_table(summary), tables.heart_table(summary), tables.baseline_table(summary)
    assert [row[0] for row in image.rows] == [row[0] for row in hearts.rows] == ["stage1", "stage2"]
    assert [row[0] for row in baselines.rows] == ["stage2", "baseline: mean_frame"]
    assert "Dice" in hearts.headings and "Dice" not in image.headings and "bits/frame" not in baselines.headings
    assert {*image.headings, *hearts.headings} == {*tables.comparison(summary).headings}
