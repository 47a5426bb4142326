"""The report states the results, the data and the rate; and needs no other file."""

import math
import re
from typing import Any

import pytest
from jinja2 import UndefinedError

from tests.pages import HOSTILE, PLAIN, Element, elements_of
from tests.unit.utils.report.rows import make_pictures, make_row, make_rows, make_summary, with_heart
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


def reasons(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Patient -> why it was chosen, in order."""
    return {one.row["patient"]: one.reason for one in evaluation.choose(rows)}


def test_best_median_and_worst_are_chosen_by_psnr() -> None:
    rows = [make_row(f"p{i}", psnr) for i, psnr in enumerate([30.0, 10.0, 50.0, 20.0, 40.0])]
    assert list(reasons(rows).items()) == [("p2", "best PSNR"), ("p0", "median PSNR"), ("p1", "worst PSNR")]
    assert [one.name for one in evaluation.choose(rows)] == ["best", "median", "worst"]


@pytest.mark.parametrize(
    ("count", "says"),
    [(1, ["the only patient"]), (2, ["best PSNR", "worst PSNR"]), (3, ["best PSNR", "median PSNR", "worst PSNR"])],
)
def test_few_patients_are_shown_once_each(count: int, says: list[str]) -> None:
    rows = [make_row(f"p{i}", float(i)) for i in range(count)]
    assert list(reasons(rows).values()) == says and len(evaluation.choose(rows)) == count


def test_the_patient_of_worst_dice_is_added_or_named_beside_its_rank_in_psnr() -> None:
    hearts = [with_heart(make_row(f"p{i}", float(i))) for i in range(5)]
    for patient, expected in (("p1", "worst Dice"), ("p2", "median PSNR and worst Dice")):
        rows = [{**row, "dice_mean": 0.1 if row["patient"] == patient else 0.5} for row in hearts]
        assert reasons(rows)[patient] == expected
        assert len(reasons(rows)) == (4 if expected == "worst Dice" else 3)
    undefined = [{**row, "dice_mean": math.nan} for row in hearts]
    assert "worst Dice" not in " ".join(reasons(undefined).values())


def test_the_pictures_show_the_reported_model_between_the_lowest_and_the_highest_rate() -> None:
    def shown(**bits: float) -> list[str]:
        rows = {name: [make_row("p", 20.0, bits_per_frame=value)] for name, value in bits.items()}
        return evaluation.models_in_pictures(evaluation.summarize(rows, {}))

    assert shown(a=50.0, b=10.0, c=90.0, d=30.0) == ["b", "d", "c"]
    assert shown(a=50.0, b=10.0) == ["b", "a"] and shown(a=50.0) == ["a"]


def test_each_model_with_a_rate_is_a_point_and_numbers_of_tokens_are_points_of_one_model() -> None:
    names = ("x, 8 tokens", "x, 16 tokens", "unknown", "y")
    rows = {name: [make_row("p", 20.0, bits_per_frame=80.0)] for name in names}
    rows["unknown"][0]["bits_per_frame"] = None
    points = evaluation.rate_points(evaluation.summarize(rows, {}))
    assert [point.name for point in points] == ["x", "x", "y"]
    assert points[0][1:3] == (10.0, 20.0) and math.isnan(points[0].dice)


def test_a_caption_states_quality_rate_and_data(summary: dict[str, Any]) -> None:
    row = make_row("patient007", 30.0, psnr=31.5, ssim=0.9, bits_per_frame=512.0, ratio_int16=683.0)
    text = evaluation.caption(row, summary)
    for part in ("patient007", "acdc_wds", "test", "stage2", "31.50 dB", "0.900", "512 bits a frame", "683x"):
        assert part in text


def test_the_page_needs_no_other_file_and_escapes_its_data(
    rows: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> None:
    html = evaluation.html_page(summary, rows["stage2"], make_pictures('a "quoted" <caption>'))
    assert "the field is &lt;S&gt;" in html and "&lt;caption&gt;" in html
    assert set(re.findall(r'src="([^;"]*;?)', html)) == {f"data:image/{kind};" for kind in ("png", "webp", "svg+xml")}
    assert not re.search(r"https?:|<script|<link|url\(", html)
    assert "Research use only, not a medical device" in html


def test_what_is_looked_at_first_stands_first() -> None:
    rows = {name: [with_heart(make_row(f"p{i}", 20.0 + i)) for i in range(2)] for name in ("stage1", "stage2")}
    html = evaluation.html_page(make_summary(rows), rows["stage2"], make_pictures("Quality over bytes"))
    order = ["tiles", "Quality over bytes", "Pictures", "Heart", "Images", "Baselines", "Patients", "How to read"]
    places = [html.index(f"<h2>{text}" if text != "tiles" else '<section class="tiles">') for text in order]
    assert places == sorted(places)


def test_the_page_states_equal_values_once_above_the_table() -> None:
    rows = {name: [make_row("p1", 20.0, bits_per_frame=88.5, ssim=ssim)] for name, ssim in (("a", 0.5), ("b", 0.6))}
    html = evaluation.html_page(make_summary(rows), rows["b"], make_pictures())
    images = html[html.index("<h2>Images") : html.index("<h2>Baselines")]
    assert images.count("88.5") == 1 and "bits/frame: 88.5" in images and "Without a value: ceiling" in images
    assert re.findall(r'<th scope="col">([^<]*)', images) == ["", "SSIM"]


def test_a_cine_can_be_stopped_and_stands_still_where_its_reader_prefers_that(
    rows: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> None:
    html = evaluation.html_page(summary, rows["stage2"], make_pictures())
    style, body = html[: html.index("<body>")], html[html.index("<body>") :]
    assert "prefers-reduced-motion: reduce" in style and ".cines:has(:checked) .moving" in style
    kinds = [
        cines.count(f'class="{kind}"') for cines in body.split('class="cines"')[1:] for kind in ("still", "moving")
    ]
    assert kinds == [1, 1, 1, 1] and body.count('type="checkbox"') == 2  # a cine of one phase has nothing to stop


def test_hostile_names_add_no_tag_and_no_attribute() -> None:
    def elements(text: str) -> list[Element]:
        rows = [
            {**with_heart(make_row(text, 20.0)), "group": text},
            {**with_heart(make_row("b", 30.0)), "group": "DCM"},
        ]
        rows = [{**row, "baselines": {text: row["baselines"]["mean_frame"]}} for row in rows]
        summary = evaluation.summarize({text: rows}, {text: text})
        summary |= dict.fromkeys(("data", "modality", "split", "note", "command_line"), text) | {"notes": [text]}
        html = evaluation.html_page(summary, rows, make_pictures(text))
        assert text not in html or text == PLAIN
        return elements_of(html)

    assert elements(HOSTILE) == elements(PLAIN)


def test_the_page_fails_on_each_value_that_is_missing(
    rows: dict[str, list[dict[str, Any]]], summary: dict[str, Any]
) -> None:
    values = evaluation.page_values(summary, rows["stage2"], make_pictures())
    assert page.render("evaluation.html.j2", values)
    for missing in values:
        rest = {name: value for name, value in values.items() if name != missing}
        with pytest.raises(UndefinedError, match=missing):
            page.render("evaluation.html.j2", rest)
    with pytest.raises(UndefinedError, match="caption"):
        page.render("evaluation.html.j2", {**values, "cycle": {"heading": "Best", "source": ""}})


def test_the_heart_s_section_has_its_tables_and_is_left_out_without_hearts(summary: dict[str, Any]) -> None:
    rows = {"stage2": [with_heart(make_row("patient001", 20.0)), with_heart(make_row("patient002", 30.0))]}
    html = evaluation.html_page(make_summary(rows), rows["stage2"], make_pictures())
    for text in ("<h2>Heart</h2>", "<h3>Structures</h3>", "LV at ED", "LV EDV (mL)", "Labelled patients: 2."):
        assert text in html
    assert "<h2>Heart</h2>" not in evaluation.html_page(summary, make_rows()["stage2"], make_pictures())


def test_large_heart_metrics_are_marked_where_the_segmenter_taught_the_model_and_have_a_value() -> None:
    rows = {"stage2": [{**with_heart(make_row("patient001", 20.0)), "lv_ef_error": math.nan}]}
    for taught, values in ((True, ["20.00", "0.500 †", "–"]), (False, ["20.00", "0.500", "–"])):
        summary = {**make_summary(rows), "reference_segmenter": {"independent_of": {"stage2": not taught}}}
        tiles = {
            t["name"]: t["value"] for t in evaluation.page_values(summary, rows["stage2"], make_pictures())["tiles"]
        }
        assert [tiles["PSNR (dB)"], tiles["Dice"], tiles["LV EF error"]] == values
