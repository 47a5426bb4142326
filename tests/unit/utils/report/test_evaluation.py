"""The report states the results, the data and the rate; and needs no other file."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
from jinja2 import UndefinedError

from tests.pages import HOSTILE, PLAIN, Element, elements_of
from tests.unit.utils.report.rows import make_row, make_rows, make_summary, with_heart
from utils.report import evaluation, page


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    return make_rows()


@pytest.fixture
def summary(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return make_summary(rows)


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


def test_a_caption_states_quality_rate_and_data(summary: dict[str, Any]) -> None:
    row = make_row("patient007", 30.0, psnr=31.5, ssim=0.9, bits_per_frame=512.0, ratio_int16=683.0)
    text = evaluation.caption(row, summary)
    for part in ("patient007", "acdc_wds", "test", "stage2", "31.50 dB", "0.900", "512 bits a frame", "683x"):
        assert part in text


def test_the_page_needs_no_other_file_and_escapes_its_data(
    tmp_path: Path, rows: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    figure = evaluation.Figure("Best", 'a "quoted" <caption>', tmp_path / "a.png")
    html = evaluation.html_page(summary, rows["stage2"], [figure])
    assert "the field is &lt;S&gt;" in html and "&lt;caption&gt;" in html
    assert re.findall(r'src="([^"]{0,22})', html) == ["data:image/png;base64,"]
    assert not re.search(r"https?:|<script|<link|url\(", html)
    assert str(tmp_path) not in html
    assert "Research use only, not a medical device" in html


def test_hostile_names_add_no_tag_and_no_attribute(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")

    def elements(text: str) -> list[Element]:
        rows = [
            {**with_heart(make_row(text, 20.0)), "group": text},
            {**with_heart(make_row("b", 30.0)), "group": "DCM"},
        ]
        rows = [{**row, "baselines": {text: row["baselines"]["mean_frame"]}} for row in rows]
        summary = evaluation.summarize({text: rows}, {text: text})
        summary |= dict.fromkeys(("data", "modality", "split", "note", "command_line"), text) | {"notes": [text]}
        figure = evaluation.Figure(text, text, tmp_path / "a.png")
        html = evaluation.html_page(summary, rows, [figure])
        assert text not in html or text == PLAIN
        return elements_of(html)

    assert elements(HOSTILE) == elements(PLAIN)


def test_the_page_fails_on_each_value_that_is_missing(
    tmp_path: Path, rows: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    values = evaluation.page_values(summary, rows["stage2"], [evaluation.Figure("Best", "text", tmp_path / "a.png")])
    assert page.render("evaluation.html.j2", values)
    for missing in values:
        rest = {name: value for name, value in values.items() if name != missing}
        with pytest.raises(UndefinedError, match=missing):
            page.render("evaluation.html.j2", rest)
    with pytest.raises(UndefinedError, match="caption"):
        page.render("evaluation.html.j2", {**values, "figures": [{"heading": "Best", "source": ""}]})


def test_the_heart_s_section_has_its_tables_and_is_left_out_without_hearts(summary: dict[str, Any]) -> None:
    rows = {"stage2": [with_heart(make_row("patient001", 20.0)), with_heart(make_row("patient002", 30.0))]}
    html = evaluation.html_page(make_summary(rows), rows["stage2"], [])
    for text in ("<h2>Heart</h2>", "<h3>Structures</h3>", "LV at ED", "LV EDV (mL)", "Labelled patients: 2."):
        assert text in html
    assert "<h2>Heart</h2>" not in evaluation.html_page(summary, make_rows()["stage2"], [])


def test_large_heart_metrics_are_marked_where_the_segmenter_taught_the_model_and_have_a_value() -> None:
    rows = {"stage2": [{**with_heart(make_row("patient001", 20.0)), "lv_ef_error": math.nan}]}
    for taught, values in ((True, ["20.00", "0.500 †", "–"]), (False, ["20.00", "0.500", "–"])):
        summary = {**make_summary(rows), "reference_segmenter": {"independent_of": {"stage2": not taught}}}
        tiles = {t["name"]: t["value"] for t in evaluation.page_values(summary, rows["stage2"], [])["tiles"]}
        assert [tiles["PSNR (dB)"], tiles["Dice"], tiles["LV EF error"]] == values
