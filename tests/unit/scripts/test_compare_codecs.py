"""Codecs and models are compared on the same voxels, by the same functions, with the bytes that they write."""

import csv
import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.case import CineCase
from data.scoring.heart import score_key_frames
from data.scoring.images import open_reference, score_grid, score_native
from scripts import compare_codecs
from scripts.evaluation import finished, rate_distortion
from scripts.evaluation.segmenters import Opened
from scripts.files.codec import compress, decompress
from tests.shards import made_up, make_shards
from tests.tiny import tiny_model
from tests.unit.scripts.test_evaluate_hearts import OfNativeFrames, heart
from utils.config import registry

pytest.importorskip("av", reason="an optional extra")
pytest.importorskip("imagecodecs", reason="an optional extra")

FAST = ("--codec_option", "x265.preset=ultrafast", "x265.ladder=[20,26,32,38]")


@pytest.fixture
def cases() -> list[CineCase]:
    return [made_up(1, slices=2, phases=4), made_up(2, slices=1, phases=5)]


@pytest.fixture
def compare(tmp_path: Path, cases: list[CineCase]) -> Callable[..., dict[str, Any]]:
    """Compare on shards of two patients; gives rate_distortion.json."""
    shards = make_shards(tmp_path / "wds", cases)

    def run(*more: str, codecs: tuple[str, ...] = ("x265",), fast: tuple[str, ...] = FAST) -> dict[str, Any]:
        place = ["--data", str(shards), "--split", "train", "--output_dir", str(tmp_path / "report"), "--device", "cpu"]
        compare_codecs.main([*place, "--codecs", *codecs, *fast, *more])
        return json.loads((tmp_path / "report" / "rate_distortion.json").read_text())

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model of a crop of 32 px."""
    tiny_model().save_pretrained(tmp_path / "stage2")
    return tmp_path / "stage2"


def test_a_point_has_the_bytes_and_the_quality_of_its_codec_on_the_native_voxels(
    compare: Callable[..., dict[str, Any]], cases: list[CineCase]
) -> None:
    found = compare("--image_size", "32")
    codec = registry.build("data.codecs", "x265", {"preset": "ultrafast"}, "codec")
    assert [point["setting"] for point in found["points"]] == ["CRF 20", "CRF 26", "CRF 32", "CRF 38"]
    sizes, quality = [], []
    for case in cases:
        reference = open_reference(case, 32, "crop")
        parts = [codec.encode(cine, 26) for cine in reference.original]
        decoded = np.stack([codec.decode(slice_parts, (20, 24)) for slice_parts in parts])
        sizes.append(sum(len(part) for slice_parts in parts for part in slice_parts) / len(decoded) / decoded.shape[1])
        quality.append(score_native(reference, decoded))
    point = found["points"][1]
    assert point["bytes_per_frame"] == pytest.approx(np.mean(sizes))
    for key in ("psnr", "ssim", "psnr_heart"):
        assert point[key] == pytest.approx(np.mean([values[key] for values in quality]))
    assert point["ratio_int16"] == pytest.approx(np.mean([20 * 24 * 2 / size for size in sizes]))


def test_a_model_is_a_point_with_the_bytes_of_its_compressed_file(
    compare: Callable[..., dict[str, Any]], cases: list[CineCase], model: Path
) -> None:
    found = compare("--model", str(model))
    assert found["field"] == {"image_size": 32, "geometry": "crop"}
    (point,) = [point for point in found["points"] if point["model"]]
    loaded = compare_codecs.load_model(model, compare_codecs.torch.device("cpu"), 64)
    references = [open_reference(case, 32, "crop") for case in cases]
    files = [compress(loaded, reference) for reference in references]
    frames = (8, 5)
    assert point["method"] == "stage2"
    assert point["bytes_per_frame"] == pytest.approx(np.mean([len(f) / n for f, n in zip(files, frames, strict=True)]))
    quality = [score_grid(r, decompress(loaded, data))[1]["psnr"] for r, data in zip(references, files, strict=True)]
    assert point["psnr"] == pytest.approx(np.mean(quality))


def test_all_codecs_are_in_one_report_with_differences_of_each_pair(
    compare: Callable[..., dict[str, Any]], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = registry.names("data.codecs")
    found = compare("--model", str(model), "--limit", "1", codecs=tuple(names), fast=())
    assert list(dict.fromkeys(point["method"] for point in found["points"])) == [*names, "stage2"]
    pairs = {(row["anchor"], row["method"]) for row in found["differences"]}
    assert len(pairs) == len(names) * (len(names) - 1) // 2 and ("svt_av1", "x265") in pairs
    for name in names:
        rates = [point["bytes_per_frame"] for point in found["points"] if point["method"] == name]
        assert rates == sorted(rates, reverse=True)
    with (tmp_path / "report" / "rate_distortion.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(found["points"]) and float(lines[0]["psnr"]) == found["points"][0]["psnr"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert (tmp_path / "report" / "rate_distortion.png").is_file() and "data:image/png" in page
    assert "Only the first 1 of 2 patients" in page and "SVT-AV1, preset 4" in page
    for file in ("index.html", "rate_distortion.json", "rate_distortion.csv"):
        assert str(tmp_path) not in (tmp_path / "report" / file).read_text()
    assert "svt_av1" in capsys.readouterr().out


def test_without_a_segmenter_the_report_says_that_dice_is_not_scored(compare: Callable[..., dict[str, Any]]) -> None:
    found = compare("--image_size", "16", "--geometry", "fit")
    assert any("no --segmenter" in note for note in found["notes"])
    assert found["original"] == {} and "dice_mean" not in found["points"][0] and found["taught"] == {}


def test_hearts_are_scored_beside_the_original_and_a_taught_model_is_marked(
    compare: Callable[..., dict[str, Any]], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reference").mkdir()
    case = heart(1)
    make_shards(tmp_path / "hearts", [case])
    for lineage, taught in (({"a"}, ["stage2"]), ({"b"}, [])):
        opened = Opened(OfNativeFrames(), lineage)
        monkeypatch.setattr(compare_codecs, "open_segmenter", lambda *_, opened=opened: opened)
        monkeypatch.setattr(compare_codecs.TiTok, "teachers", lambda self: ["a"])
        more = ("--model", str(model), "--segmenter", str(tmp_path / "reference"), "--data", str(tmp_path / "hearts"))
        found = compare(*more)
        assert found["taught"] == {"threshold": taught}
        assert ("†" in (tmp_path / "report" / "index.html").read_text()) == bool(taught)
    reference = open_reference(case, 32, "crop")
    original = score_key_frames(OfNativeFrames(), reference, reference.original)
    assert found["original"]["dice_mean"] == pytest.approx(original["dice_mean"])
    dice = [point["dice_mean"] for point in found["points"]]
    assert original["dice_mean"] + 0.02 > dice[0] > 0.8 and found["points"][0]["lv_ef_error"] is not None


def test_a_ladder_that_a_segmenter_taught_is_marked_at_every_weight_of_the_heart() -> None:
    opened = [Opened(OfNativeFrames(), {"a"})]
    models: Any = {"ladder": SimpleNamespace(teachers=lambda: ["a"]), "other": SimpleNamespace(teachers=lambda: ["b"])}
    named = {"ladder": ("ladder", "ladder heart x4", "ladder"), "other": ("other",)}
    points: Any = {name: [SimpleNamespace(method=method) for method in methods] for name, methods in named.items()}
    assert rate_distortion.taught_by(opened, models, points) == {"threshold": ["ladder", "ladder heart x4"]}


def test_a_patient_that_fails_is_named_and_costs_no_other(
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, code = compare("--image_size", "32", "--limit", "1"), rate_distortion.code_slices

    def code_some(codec: Any, original: np.ndarray, setting: float) -> Any:
        if original.shape[1] == 5 and setting == 32:  # patient002, at one setting only
            raise RuntimeError("out of memory")
        return code(codec, original, setting)

    monkeypatch.setattr(rate_distortion, "code_slices", code_some)
    with pytest.raises(SystemExit) as exit_:
        compare("--image_size", "32")
    found = json.loads((tmp_path / "report" / "rate_distortion.json").read_text())
    assert exit_.value.code == 1 and found["n"] == 1 and found["points"] == alone["points"]
    assert found["failed"] == [{"patient": "patient002", "reason": "RuntimeError: out of memory"}]
    assert "1 of 2 patients could not be compared" in capsys.readouterr().err
    assert "patient002 (RuntimeError: out of memory)" in (tmp_path / "report" / "index.html").read_text()


def test_where_no_patient_can_be_compared_the_reasons_are_told(
    compare: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("damaged")

    monkeypatch.setattr(rate_distortion, "code_slices", fail)
    with pytest.raises(SystemExit):
        compare("--image_size", "32")
    assert "none of the 2 patients could be compared: patient001 (damaged)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no field is chosen; give --model, --field_of or --image_size"),
        (("--geometry", "fit"), "--geometry needs --image_size"),
        (("--image_size", "5"), "--image_size is 5, expected a number from 11"),
        (("--image_size", "32", "--limit", "0"), "--limit is 0, expected a number from 1"),
        (("--image_size", "32", "--steps", "-0.1"), "--steps is -0.1, expected a number above 0"),
        (("--model", "nowhere"), "--model nowhere: no such folder"),
        (("--field_of", "nowhere"), "--field_of nowhere: no such folder"),
        (("--image_size", "32", "--segmenter", "nowhere"), "--segmenter nowhere: no such folder"),
        (("--image_size", "32", "--split", "val"), "the split val holds no patients"),
        (("--image_size", "32", "--codecs", "x264"), "--codecs: unknown codec 'x264'; known codecs: jpeg2000"),
        (("--image_size", "32", "--codec_option", "jpegxl.effort=3"), "expected NAME.KEY=VALUE with a chosen codec"),
        (("--image_size", "32", "--codec_option", "x265.prest=slow"), "x265.prest: unknown key; did you mean"),
        (("--image_size", "32", "--codec_option", "x265.ladder=[]"), "ladder is empty"),
        (("--image_size", "32", "--codec_option", "x265.ladder=[99]"), "ladder[0]: expected a number"),
    ],
)
def test_a_wrong_argument_gives_one_clear_line(
    arguments: tuple[str, ...],
    message: str,
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        compare(*arguments, fast=())
    error = capsys.readouterr().err
    assert exit_.value.code == 1 and error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "report").exists()


def test_the_field_is_chosen_once_and_models_of_another_field_are_refused(
    compare: Callable[..., dict[str, Any]], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare("--field_of", str(model), "--limit", "1")["field"] == {"image_size": 32, "geometry": "crop"}
    for arguments, message in (
        (("--field_of", str(model), "--image_size", "32"), "both choose the field"),
        (("--model", str(model), "--image_size", "16"), "compare models of different fields in separate runs"),
    ):
        with pytest.raises(SystemExit):
            compare(*arguments)
        assert message in capsys.readouterr().err


def test_a_model_that_only_segments_is_refused_as_a_model(
    compare: Callable[..., dict[str, Any]],
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    segmenter = SimpleNamespace(config=SimpleNamespace(only_segments=True))
    monkeypatch.setattr(compare_codecs, "load_model", lambda *_: segmenter)
    with pytest.raises(SystemExit):
        compare("--model", str(model))
    assert "only segments: give it as --segmenter" in capsys.readouterr().err


def test_a_missing_package_is_one_clear_line(
    compare: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SystemExit):
        compare("--image_size", "32")
    error = capsys.readouterr().err
    assert error.startswith("error: codec x265 needs") and "pip install av" in error and error.count("\n") == 1


def counting(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[float]:
    """The settings that codecs code from now on; Ctrl-C comes at the call number `stop_at`."""
    calls: list[float] = []
    code = rate_distortion.code_slices

    def code_some(codec: Any, original: np.ndarray, setting: float) -> Any:
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(setting)
        return code(codec, original, setting)

    monkeypatch.setattr(rate_distortion, "code_slices", code_some)
    return calls


def test_an_interrupted_comparison_goes_on_where_it_stopped(
    compare: Callable[..., dict[str, Any]],
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ("--model", str(model))
    uncut = compare(*more)
    shutil.rmtree(tmp_path / "report")
    with monkeypatch.context() as patch:
        calls = counting(patch, stop_at=6)  # of 4 settings of 2 patients
        with pytest.raises(SystemExit) as exit_:
            compare(*more)
        assert exit_.value.code == 130 and len(calls) == 6
    calls = counting(monkeypatch)
    capsys.readouterr()
    assert compare(*more) == uncut and calls == [32, 38]
    assert "7 of 10 results were found in" in capsys.readouterr().out  # with that of the model of the first patient
    assert compare(*more) == uncut and len(calls) == 2


def test_hearts_of_an_original_are_kept_too(
    compare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reference").mkdir()
    make_shards(tmp_path / "hearts", [heart(1)])
    place = ("--image_size", "32", "--segmenter", str(tmp_path / "reference"), "--data", str(tmp_path / "hearts"))
    segmenter = OfNativeFrames()
    monkeypatch.setattr(compare_codecs, "open_segmenter", lambda *_: Opened(segmenter, {"a"}, "settings"))
    first = compare(*place)

    def fail(*_: Any) -> None:
        raise AssertionError("segmented again")

    monkeypatch.setattr(segmenter, "labels", fail, raising=False)
    assert compare(*place) == first


def test_results_of_other_inputs_are_told_and_not_used(
    compare: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    compare("--image_size", "32", "--limit", "1")
    make_shards(tmp_path / "others", [made_up(1, slices=1, phases=5)])  # another cine of the same name
    calls = counting(monkeypatch)
    for more in (("--image_size", "16"), ("--image_size", "32", "--data", str(tmp_path / "others"))):
        capsys.readouterr()
        compare(*more, "--limit", "1")
        printed = capsys.readouterr().out
        assert (
            "are of other data, methods, settings or code and are not used" in printed and "were found" not in printed
        )
    assert len(calls) == 8
    settings = [
        Opened(OfNativeFrames(), {"a"}, value) for value in ({"labels": [0, 1, 2, 3]}, {"labels": [0, 3, 2, 1]})
    ]
    first, second = (finished.shared_inputs({}, "test", (32, "crop"), [one], "cpu") for one in settings)
    assert first != second


def test_a_damaged_result_is_computed_again(
    compare: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare("--image_size", "32", "--limit", "1")
    path = min((tmp_path / "report" / "finished").iterdir())
    path.write_bytes(path.read_bytes()[:40])
    calls = counting(monkeypatch)
    assert compare("--image_size", "32", "--limit", "1") == first and len(calls) == 1


def test_a_row_is_kept_with_all_its_digits_and_with_nan(tmp_path: Path) -> None:
    kept = finished.Finished(tmp_path, {"data": "one"})
    kept.save({"setting": 1}, {"psnr": np.float64(1) / 3, "ssim": np.float32(0.1), "lv_ef": math.nan, "hearts": {}})
    row = kept.load({"setting": 1})
    assert row is not None and row["psnr"] == 1 / 3 and row["ssim"] == np.float32(0.1) and math.isnan(row["lv_ef"])
    assert (
        kept.load({"setting": 2}) is None and finished.Finished(tmp_path, {"data": "two"}).load({"setting": 1}) is None
    )
