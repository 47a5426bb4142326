"""A case's record says what is in it, in plain JSON; the cohort's files say what is in the records."""

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from data.case import CineCase
from data.cohort.fingerprint import CROP, case_record, summarize, write_fingerprint
from tests.pages import HOSTILE, PLAIN, Element, elements_of
from utils.files import jsonable
from utils.report import page
from utils.report.fingerprint.page import html_page, page_values

SPACING = (2.0, 1.5, 10.0)
LINE_BYTES = 16 << 10


def make_case(patient: str = "patient001", phases: int = 9, **changes: Any) -> CineCase:
    """A bright LV of 8 x 8, at ES 4 x 8 pixels, beside an RV and in a wall, in the middle one of three slices."""
    rng = np.random.default_rng(0)
    cine = rng.integers(0, 100, (40, 48, 3, phases)).astype(np.int16)
    ed, es = np.zeros((2, 40, 48, 3), np.uint8)
    for mask, rows in ((ed, 8), (es, 4)):
        mask[14 : 18 + rows, 18:30, 1] = 2
        mask[16 : 16 + rows, 20:28, 1] = 3
        mask[16 : 16 + rows, 31:37, 1] = 1
    for t, rows in enumerate([*np.linspace(8, 5, phases - 1), 4]):
        cine[16 : 16 + round(rows), 20:28, :, t] += 400
    values: dict[str, Any] = {
        "patient": patient, "cine": cine, "masks": {0: ed, phases - 1: es}, "spacing_mm": SPACING,
        "affine": np.diag([*SPACING, 1.0]), "ed": 0, "es": phases - 1, "group": "NOR", "height_cm": 180.0,
        "weight_kg": 80.0, "slope": 1.0, "intercept": 0.0, "source_hash": "0" * 32,
    }  # fmt: skip
    return CineCase(**{**values, **changes})


def unlabelled(patient: str = "patient009") -> CineCase:
    return make_case(patient, masks={}, ed=None, es=None, group=None, height_cm=None, weight_kg=None)


@pytest.mark.parametrize("make", [make_case, unlabelled])
def test_a_record_is_strict_json_and_fits_a_journal_line(make: Callable[[], CineCase]) -> None:
    record = case_record(make())
    line = json.dumps(record, allow_nan=False)
    assert json.loads(line) == record
    assert len(line.encode()) < LINE_BYTES


def test_the_worst_picture_still_fits_a_journal_line() -> None:
    noise = np.random.default_rng(1).integers(0, 1000, (256, 256, 3, 2)).astype(np.int16)
    record = case_record(make_case(cine=noise, masks={}, ed=0, es=1, phases=2))
    assert len(json.dumps(record).encode()) < LINE_BYTES


def test_a_record_says_what_the_case_holds() -> None:
    record = case_record(make_case())
    assert record["shape"] == [40, 48, 3, 9] and record["spacing_mm"] == list(SPACING)
    assert record["dtype"] == "int16" and record["bits"] == 9
    assert (record["ed"], record["es"], record["labelled_phases"]) == (0, 8, [0, 8])
    assert (record["unlabelled_slices"], record["unlabelled_inside"]) == (2, 0)
    assert record["bsa_m2"] == pytest.approx(2.0)
    assert record["window"][0] == 0 and 400 < record["window"][1] < 500


def test_volumes_are_voxels_times_spacing() -> None:
    record, voxel_ml = case_record(make_case()), 2.0 * 1.5 * 10 / 1000
    assert record["lv_edv"] == pytest.approx(64 * voxel_ml) and record["lv_esv"] == pytest.approx(32 * voxel_ml)
    assert record["rv_edv"] == pytest.approx(48 * voxel_ml) and record["rv_esv"] == pytest.approx(24 * voxel_ml)
    assert record["myo_ed"] == pytest.approx((12 * 12 - 64) * voxel_ml)
    assert record["myo_es"] == pytest.approx((8 * 12 - 32) * voxel_ml)
    assert record["lv_ef"] == pytest.approx(50) and record["lv_mass"] == pytest.approx(1.05 * record["myo_ed"])


def test_intensities_and_window_are_real_values() -> None:
    plain, scaled = case_record(make_case()), case_record(make_case(slope=2.0, intercept=-10.0))
    for name, value in plain["intensity"].items():
        assert scaled["intensity"][name] == pytest.approx(2 * value - 10)
    assert scaled["window"] == pytest.approx([0.0, 2 * plain["window"][1] - 10])
    assert list(plain["intensity"]) == ["p0.5", "p50", "p95", "p99.5", "max"]


def test_what_is_not_known_is_null_never_nan() -> None:
    record = case_record(unlabelled())
    for key in ("ed", "es", "group", "bsa_m2", "lv_edv", "lv_ef", "lv_mass", "myo_es", "heart_in_crop"):
        assert record[key] is None
    assert record["labelled_phases"] == [] and record["unlabelled_slices"] is None


def test_slices_without_labels_between_labelled_ones_are_told_from_those_at_the_ends() -> None:
    masks = make_case().masks
    filled = {t: mask.copy() for t, mask in masks.items()}
    for mask in filled.values():
        mask[..., 0] = mask[..., 2] = mask[..., 1]
    filled[0][..., 1] = 0
    record = case_record(make_case(masks=filled))
    assert (record["unlabelled_slices"], record["unlabelled_inside"]) == (0, 1)


def test_the_heart_is_inside_the_crop_or_told_by_how_much_it_is_not() -> None:
    assert case_record(make_case())["heart_in_crop"] == 1
    cine = np.random.default_rng(0).integers(0, 20, (200, 200, 1, 2)).astype(np.int16)
    cine[90:110, 90:110, :, 1] += 500  # what moves is in the middle, so the crop holds rows and columns 36 to 163
    mask = np.zeros((200, 200, 1), np.uint8)
    mask[100, :36] = mask[100, 100:136] = 3  # half of it far from there
    record = case_record(make_case(cine=cine, masks={0: mask}, es=1))
    assert record["heart_in_crop"] == pytest.approx(0.5, abs=0.03)


def test_thumbnails_show_the_middle_slice_of_the_crop_at_ed_and_es() -> None:
    pictures = case_record(make_case())["thumbnails"]
    assert list(pictures) == ["ED", "ES"]
    shown = [np.array(Image.open(io.BytesIO(base64.b64decode(data))), float) for data in pictures.values()]
    assert all(picture.shape == (64, 64) for picture in shown)
    ed, es = ((picture > 200).sum() * (CROP // 64) ** 2 for picture in shown)
    assert ed == 64 and es == 32


def test_an_unknown_es_is_shown_as_the_phase_most_unlike_ed() -> None:
    known, guessed = (case_record(make_case(es=es))["thumbnails"]["ES"] for es in (8, None))
    assert guessed == known


@pytest.fixture
def records() -> list[dict[str, Any]]:
    small, other = make_case("patient002", group="DCM"), make_case("patient003", phases=5)
    return [case_record(case) for case in (other, unlabelled(), small, make_case("patient001"))]


def test_the_cohort_is_counted_and_spread_as_its_records_say(records: list[dict[str, Any]], tmp_path: Path) -> None:
    found = write_fingerprint(records, tmp_path, "made")
    assert found == json.loads((tmp_path / "fingerprint.json").read_text())
    assert found["counts"] == {"patients": 4, "slices": 12, "frames": 3 * (9 + 9 + 9 + 5), "labelled_patients": 3}
    assert found["groups"] == {"DCM": 1, "NOR": 2, "unknown": 1} and found["dtypes"] == {"int16": 4}
    assert found["distributions"]["phases"] == {
        "n": 4, "min": 5, "p5": pytest.approx(5.6), "median": 9, "p95": 9, "max": 9, "mean": 8, "std": 2
    }  # fmt: skip
    assert found["distributions"]["lv_ef"]["n"] == 3 and found["by_group"]["NOR"]["lv_ef"]["median"] == 50
    assert found["by_group"]["unknown"]["lv_ef"] == {
        "n": 0, **dict.fromkeys(("min", "p5", "median", "p95", "max", "mean", "std"))
    }  # fmt: skip
    assert [row["patient"] for row in found["patients"]] == ["patient001", "patient002", "patient003", "patient009"]
    assert "thumbnails" not in json.dumps(found)


def test_warnings_name_the_patient_and_the_rule(records: list[dict[str, Any]]) -> None:
    warnings = summarize(records, "made")["warnings"]
    assert {"patient": "patient003", "rule": "few_phases", "warning": "5 phases, expected 8 or more"} in warnings
    assert not [w for w in warnings if w["patient"] != "patient003" and w["rule"] == "few_phases"]


def test_the_files_do_not_depend_on_the_order_of_the_records(records: list[dict[str, Any]], tmp_path: Path) -> None:
    for place, given in (("a", records), ("b", records[::-1])):
        write_fingerprint(given, tmp_path / place, "made")
    for name in ("fingerprint.json", "fingerprint.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_page_needs_no_other_file_shows_every_patient_and_escapes(
    records: list[dict[str, Any]], tmp_path: Path
) -> None:
    records[0]["group"] = "<b>RV"
    write_fingerprint(records, tmp_path, "made & <shown>")
    html = (tmp_path / "fingerprint.html").read_text()
    assert "made &amp; &lt;shown&gt;" in html and "&lt;b&gt;RV" in html and "<b>RV" not in html
    assert set(re.findall(r'src="([^"]{0,22})', html)) == {"data:image/png;base64,"}
    assert not re.search(r"https?:|<script|<link|url\(", html)
    assert "Research use only, not a medical device" in html
    for record in records:
        assert f'alt="{record["patient"]} at ES"' in html
    assert "<td>50 (50 to 50)</td>" in html and "– to –" not in html  # a group without labels has a dash a cell


def test_hostile_names_add_no_tag_and_no_attribute(records: list[dict[str, Any]]) -> None:
    def elements(text: str) -> list[Element]:
        named = [{**record, "group": text, "patient": f"{text}{i}"} for i, record in enumerate(records)]
        fingerprint = summarize(named, text)
        fingerprint["warnings"] = [dict.fromkeys(("patient", "rule", "warning"), text)]
        fingerprint["rules"] = {text: text}
        html = html_page(jsonable(fingerprint), {record["patient"]: record["thumbnails"] for record in named})
        assert text not in html or text == PLAIN
        return elements_of(html)

    assert elements(HOSTILE) == elements(PLAIN)


def test_the_page_fails_on_each_value_that_is_missing(records: list[dict[str, Any]]) -> None:
    thumbnails = {record["patient"]: record["thumbnails"] for record in records}
    values = page_values(jsonable(summarize(records, "made")), thumbnails)
    assert page.render("fingerprint.html.j2", values)
    for missing in values:
        rest = {name: value for name, value in values.items() if name != missing}
        with pytest.raises(UndefinedError, match=missing):
            page.render("fingerprint.html.j2", rest)


def test_a_thumbnail_that_is_not_base64_is_refused(records: list[dict[str, Any]]) -> None:
    thumbnails = {record["patient"]: record["thumbnails"] for record in records}
    thumbnails["patient001"] = {"ED": '" onerror="alert(1)'}
    with pytest.raises(ValueError, match=r"[Bb]ase64|[Nn]on-base64|padding"):
        html_page(jsonable(summarize(records, "made")), thumbnails)


def test_a_cohort_without_any_label_has_a_page_too(tmp_path: Path) -> None:
    write_fingerprint([case_record(unlabelled())], tmp_path, "made")
    html = (tmp_path / "fingerprint.html").read_text()
    assert "Montage" in html and "Hearts" not in html


@pytest.mark.parametrize(("count", "message"), [(0, "no records"), (2, "two records of patient001")])
def test_no_records_and_a_patient_that_is_there_twice_are_refused(tmp_path: Path, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_fingerprint([case_record(make_case())] * count, tmp_path, "made")


def test_making_records_needs_no_matplotlib() -> None:
    code = "import sys, data.cohort.fingerprint; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
