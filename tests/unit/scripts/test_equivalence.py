"""The report of clinical equivalence, made from reports of compare_codecs.py."""

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.scoring.heart import score_key_frames
from data.scoring.images import open_reference
from scripts import compare_codecs, equivalence
from scripts.evaluation.segmenters import Opened
from tests.shards import make_shards
from tests.unit.scripts.test_evaluate_hearts import OfNativeFrames, heart

pytest.importorskip("av", reason="an optional extra")

PATIENTS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "hearts", [heart(index) for index in range(PATIENTS)])


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Callable[..., Path]:
    """Write a report of compare_codecs.py with hearts; return its folder."""
    folder = tmp_path_factory.mktemp("reports")
    (folder / "network").mkdir()

    def run(name: str, ladder: str, *more: str) -> Path:
        network = OfNativeFrames()
        network.name = "network"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compare_codecs, "open_segmenter", lambda *_: Opened(network, set()))
            compare_codecs.main([
                "--data", str(shards), "--split", "train", "--output_dir", str(folder / name), "--device", "cpu",
                "--image_size", "32", "--codecs", "x265", "--codec_option", "x265.preset=ultrafast",
                f"x265.ladder={ladder}", "--segmenter", str(folder / "network"), *more,
            ])  # fmt: skip
        return folder / name

    return run


@pytest.fixture(scope="module")
def report(compare: Callable[..., Path]) -> Path:
    return compare("fine", "[10,20,30,40]")


def rewritten(folder: Path, source: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a report with one change."""
    data = json.loads((source / "rate_distortion.json").read_text())
    change(data)
    folder.mkdir()
    (folder / "rate_distortion.json").write_text(json.dumps(data))
    return folder


def test_the_report_has_headline_changes_agreement_and_groups(
    report: Path, tmp_path: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    equivalence.main([str(report), "--output_dir", str(tmp_path / "out"), "--resamples", "100"])
    found = json.loads((tmp_path / "out" / "equivalence.json").read_text())
    points = found["points"]
    ratios = [point["ratio_int16"] for point in points]
    assert ratios == sorted(ratios) and [point["setting"] for point in points] == [f"CRF {q}" for q in (10, 20, 30, 40)]
    assert points[0]["equivalent"] and not points[-1]["equivalent"] and points[-1]["dice"] > 0.01
    (headline,) = found["headline"]
    assert ratios[0] <= headline["ratio"] < ratios[-1] and headline["position"] == "measured range"
    assert headline["interval"][0] <= headline["ratio"] <= headline["interval"][1]
    assert {row["against"] for row in found["agreement"]} == {"ground truth", "original"}
    assert sum(row["worst"] for row in found["groups"]) == len(points) and found["n"] == PATIENTS
    for name in ("headline", "points", "agreement", "groups"):
        with (tmp_path / "out" / f"{name}.csv").open() as stream:
            assert len(list(csv.DictReader(stream))) == len(found[name])
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Highest equivalent ratio" in page and "data:image/png" in page and str(tmp_path) not in page
    assert "x265" in capsys.readouterr().out


def test_the_changes_are_those_of_the_patients_as_the_segmenter_measures_them(report: Path, tmp_path: Path) -> None:
    equivalence.main([str(report), "--output_dir", str(tmp_path), "--resamples", "100"])
    found = json.loads((tmp_path / "equivalence.json").read_text())
    rows = json.loads((report / "rate_distortion.json").read_text())["per_patient"]
    dice = [row["hearts"]["network"]["dice_mean"] for row in rows if row["setting"] == "CRF 40"]
    references = [open_reference(heart(index), 32, "crop") for index in range(PATIENTS)]
    before = [score_key_frames(OfNativeFrames(), one, one.original)["dice_mean"] for one in references]
    assert found["points"][-1]["dice"] == pytest.approx(np.mean(before) - np.mean(dice))
    own = [row["hearts"]["network"]["dice_mean_to_original"] for row in rows if row["setting"] == "CRF 40"]
    assert found["points"][-1]["dice_mean_to_original"] == pytest.approx(np.mean(own)) and max(own) < 1


def test_reports_of_other_settings_are_joined_and_settings_are_sorted(
    report: Path, compare: Callable[..., Path], tmp_path: Path
) -> None:
    more = compare("more", "[25]")
    equivalence.main([str(report), str(more), "--output_dir", str(tmp_path), "--resamples", "100"])
    points = json.loads((tmp_path / "equivalence.json").read_text())["points"]
    assert [point["setting"] for point in points] == [f"CRF {q}" for q in (10, 20, 25, 30, 40)]


def test_two_models_of_one_name_are_not_joined_to_one_curve(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def named(hashed: str) -> Callable[[dict[str, Any]], None]:
        return lambda data: data.update(models={"best": hashed})

    folders = [rewritten(tmp_path / hashed, report, named(hashed)) for hashed in ("a1", "b2")]
    with pytest.raises(SystemExit):
        equivalence.main([*map(str, folders), "--output_dir", str(tmp_path / "out")])
    assert "its model best is another one than in" in capsys.readouterr().err


def test_the_printed_command_is_one_that_the_script_takes(report: Path, tmp_path: Path) -> None:
    equivalence.main([str(report), "--output_dir", str(tmp_path / "out"), "--resamples", "100"])
    line = json.loads((tmp_path / "out" / "equivalence.json").read_text())["command_line"]
    again = equivalence.parse_arguments(shlex.split(line)[2:])
    assert [path.name for path in again.results] == [report.name] and again.resamples == 100


def test_a_segmenter_that_finds_no_heart_gives_a_report_with_a_warning_and_without_a_ratio(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def blind(data: dict[str, Any]) -> None:
        for row in data["per_patient"]:
            for key in row["hearts"]["network"]:
                row["hearts"]["network"][key] = 0.0 if key.startswith("dice") else None

    source = rewritten(tmp_path / "blind", report, blind)
    equivalence.main([str(source), "--output_dir", str(tmp_path / "out"), "--resamples", "100"])
    result = json.loads((tmp_path / "out" / "equivalence.json").read_text())
    assert [row["ratio"] for row in result["headline"]] == [0.0]
    warnings = [note for note in result["notes"] if note.startswith("WARNING:")]
    assert len(warnings) == 2 and "RV_ED 0.00" in warnings[1] and f"{PATIENTS} patients" in warnings[0]
    page, printed = (tmp_path / "out" / "index.html").read_text(), capsys.readouterr().out
    assert all(warning in page and warning in printed for warning in warnings)


def test_a_model_that_the_segmenter_taught_is_marked_wherever_it_stands(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = "† The segmenter network taught x265, so it favours these models."

    def taught(data: dict[str, Any]) -> None:
        data["taught"], data["notes"] = {"network": ["x265"]}, [*data["notes"], note]

    folder = rewritten(tmp_path / "taught", report, taught)
    equivalence.main([str(folder), "--output_dir", str(tmp_path / "out"), "--resamples", "100"])
    said = capsys.readouterr().out
    assert "x265 †" in said and note in said
    found = json.loads((tmp_path / "out" / "equivalence.json").read_text())
    for name in ("headline", "points", "agreement", "groups"):
        assert {row["method"] for row in found[name]} <= {"x265 †", "original"}
    assert "x265 †" in (tmp_path / "out" / "index.html").read_text()


def test_reports_that_do_not_belong_together_are_refused(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fewer(data: dict[str, Any]) -> None:
        data["per_patient"] = [row for row in data["per_patient"] if row["patient"] != "patient000"]

    def other_hearts(data: dict[str, Any]) -> None:
        originals = [row for row in data["per_patient"] if row["method"] == "original"]
        originals[0]["hearts"]["network"]["lv_ef"] += 1

    changed = {
        "field is {'image_size': 64": lambda data: data["field"].update(image_size=64),
        "patients is 3 patients": fewer,
        "measures other hearts on the originals": other_hearts,
        "is in two reports": lambda data: None,
    }
    for index, (says, change) in enumerate(changed.items()):
        copy = rewritten(tmp_path / str(index), report, change)
        with pytest.raises(SystemExit):
            equivalence.main([str(report), str(copy), "--output_dir", str(tmp_path / "out")])
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_used_is_one_clear_line(
    report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = rewritten(tmp_path / "bare", report, lambda data: data.update(taught={}))
    cases = {
        "no such file; give the output folder": [str(tmp_path)],
        "again with --segmenter": [str(bare)],
        "--dice is -1": [str(report), "--dice", "-1"],
        "--resamples is 5": [str(report), "--resamples", "5"],
    }
    for says, arguments in cases.items():
        with pytest.raises(SystemExit):
            equivalence.main([*arguments, "--output_dir", str(tmp_path / "out")])
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert says in line and not (tmp_path / "out").exists()


def test_a_patient_that_is_labelled_at_ed_alone_makes_no_setting_equivalent_and_costs_no_report(
    report: Path, tmp_path: Path
) -> None:
    def without_es(data: dict[str, Any]) -> None:
        for row in data["per_patient"]:
            if row["patient"] == data["per_patient"][0]["patient"]:
                hearts = row["hearts"]["network"]
                row["hearts"]["network"] = {k: v for k, v in hearts.items() if "_ES" not in k} | {"lv_ef": None}

    source = rewritten(tmp_path / "ed", report, without_es)
    equivalence.main([str(source), "--output_dir", str(tmp_path / "out"), "--resamples", "100"])
    result = json.loads((tmp_path / "out" / "equivalence.json").read_text())
    assert not any(point["equivalent"] for point in result["points"])
