"""The heart in the report: one reference segmenter on originals and reconstructions, against the ground truth."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.case import CineCase
from data.scoring.heart import columns, score_heart, score_key_frames, score_original, segment
from data.scoring.images import Reference, open_reference, to_native
from scripts import evaluate
from scripts.evaluation import segmenters
from tests.pages import draw_no_figures
from tests.unit.scripts.test_evaluate import SIZE, BlockModel, write_shards
from utils.report.drawing.overlays import heart_box
from utils.report.tables import MARK, comparison

LEVELS = (0.3, 0.55, 0.8)  # of the window, between background, RV, MYO and LV


class Threshold:
    """A network that tells structures by their brightness."""

    def labels(self, x: Tensor) -> Tensor:
        return sum((x[:, 0] > level).to(torch.uint8) for level in LEVELS)  # type: ignore[return-value]

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])


def heart(index: int, group: str | None = None) -> CineCase:
    """RV, MYO and LV as squares of four brightnesses; the LV is smaller at ES."""
    mask = np.zeros((40, 36, 2, 4), np.uint8)
    for t, side in enumerate((8, 6, 2, 6)):
        mask[6:12, 8:28, :, t] = 1
        mask[14:30, 10 : 26 - index, :, t] = 2
        mask[18 : 18 + side, 14 : 14 + side, :, t] = 3
    cine = (mask * 300.0 + np.random.default_rng(index).integers(0, 20, mask.shape)).astype(np.int16)
    return CineCase(
        patient=f"patient{index:03d}", cine=cine, masks={0: mask[..., 0], 2: mask[..., 2]}, spacing_mm=(1.5, 1.5, 8.0),
        affine=np.diag([1.5, 1.5, 8.0, 1.0]), ed=0, es=2, group=group, height_cm=None, weight_kg=None, slope=1.0,
        intercept=0.0, source_hash="",
    )  # fmt: skip


class OfNativeFrames:
    """A reference segmenter of native frames."""

    name, every_phase = "threshold", True

    def labels(self, frames: np.ndarray, reference: Reference) -> np.ndarray:
        return Threshold().labels(torch.from_numpy(frames)[:, None]).numpy()


segmenter = OfNativeFrames()


def test_a_perfect_reconstruction_has_the_dice_of_the_original_and_an_empty_one_none() -> None:
    reference = open_reference(heart(0), SIZE, "crop")
    perfect, original = (
        score_heart(segmenter, reference, to_native(reference, reference.prepared.image[0])),
        score_original(segmenter, reference),
    )
    assert perfect["dice_mean"] == original["dice_mean_original"] > 0.99
    assert perfect["lv_ef_error"] == original["lv_ef_error_original"]
    empty = score_heart(segmenter, reference, to_native(reference, np.zeros_like(reference.prepared.image[0])))
    assert empty["dice_mean"] == 0 and np.isnan(empty["lv_ef"])
    assert set(perfect) | set(original) == set(columns())
    assert perfect["ed_phase_error"] == perfect["es_phase_error"] == 0 and np.isnan(empty["es_phase_error"])
    late = score_heart(segmenter, reference, to_native(reference, np.roll(reference.prepared.image[0], 1, axis=-1)))
    assert late["ed_phase_error"] == late["es_phase_error"] == 25 and original["es_phase_error_original"] == 0


def test_volumes_are_those_of_the_masks_in_millilitres() -> None:
    case = heart(0)
    found = score_original(segmenter, open_reference(case, SIZE, "crop"))
    voxel_ml = 1.5 * 1.5 * 8 / 1000
    assert found["lv_edv_truth"] == pytest.approx(2 * 64 * voxel_ml)
    assert found["lv_ef_truth"] == pytest.approx(100 * (1 - 4 / 64))
    assert found["lv_edv_original"] == pytest.approx(found["lv_edv_truth"], rel=0.02)


def test_native_frames_are_scored_as_they_are_where_the_model_resamples() -> None:
    reference = open_reference(heart(0), SIZE, "fit")
    native = score_key_frames(segmenter, reference, reference.original)
    resampled = score_heart(segmenter, reference, to_native(reference, reference.prepared.image[0]))
    assert native["dice_mean"] > resampled["dice_mean"] and "ed_phase_error" not in native
    same = open_reference(heart(0), SIZE, "crop")
    whole = score_heart(segmenter, same, to_native(same, same.prepared.image[0]))
    assert score_key_frames(segmenter, same, same.original).items() <= whole.items()


@pytest.mark.parametrize("mode", ["crop", "fit"])
def test_labels_come_back_to_the_native_pixels_of_the_field(mode: str) -> None:
    reference = open_reference(heart(0), SIZE, mode)
    found = segment(segmenter, reference, to_native(reference, reference.prepared.image[0]))
    truth = reference.case.masks[0][reference.box]
    assert found["ED"].shape == truth.shape
    assert (found["ED"] == truth).mean() > (0.99 if mode == "crop" else 0.85)


def test_a_patient_without_labels_has_no_heart_figures() -> None:
    bare = CineCase(**{**vars(heart(0)), "masks": {}})
    reference = open_reference(bare, SIZE, "crop")
    assert (
        score_heart(segmenter, reference, to_native(reference, reference.prepared.image[0]))
        == score_original(segmenter, reference)
        == {}
    )


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models, a segmenter alone and shards of three patients, one of them without a diagnosis."""
    models = {"plain": BlockModel(), "seeing": BlockModel(anatomy=2), "wide": BlockModel("fit"), "other": BlockModel()}
    models["seeing"].segmenter, models["other"].segmenter = Threshold(), Threshold()
    models["seeing"].taught_by, models["other"].taught_by = ["a"], ["b"]
    models["other"].config = replace(models["other"].config, decoder="none", conditioning={"name": "resnet18"})
    for module in (evaluate, segmenters):
        monkeypatch.setattr(module, "load_model", lambda folder, device, batch_frames: models[folder.name])
    for name in models:
        (tmp_path / name).mkdir()
    test = [heart(1, "DCM"), heart(2, "HCM"), heart(3)]
    write_shards(tmp_path / "wds", {"train": [heart(0, "NOR")], "test": test})
    return tmp_path


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_no_figures(monkeypatch)


def report(place: Path, *names: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    models = [str(place / name) for name in names]
    where = ["--data", str(place / "wds"), "--output_dir", str(place / "report"), "--device", "cpu"]
    evaluate.main(["--model", *models, *where, *more])
    return json.loads((place / "report" / "summary.json").read_text())


def test_the_report_has_dice_volumes_agreement_groups_and_overlays(place: Path) -> None:
    summary = report(place, "plain", "seeing")
    dice, original = summary["mean"]["dice"], summary["mean"]["dice_original"]
    assert set(dice) == {*(f"{s}_{p}" for s in ("RV", "MYO", "LV") for p in ("ED", "ES")), "RV", "MYO", "LV", "mean"}
    assert 0 < dice["mean"] < original["mean"] and original["LV_ED"] > 0.9
    assert summary["bland_altman"]["lv_edv"]["n"] == 3
    assert {name: group["n"] for name, group in summary["groups"].items()} == {"DCM": 1, "HCM": 1, "unknown": 1}
    assert summary["baselines"]["mean_frame"]["mean"]["dice_mean"] < 1
    assert summary["models"]["plain"]["mean"]["dice_mean"] == pytest.approx(dice["mean"])  # the same segmenter for both
    names = {path.name for path in (place / "report").glob("*.png")}
    assert {"agreement.png", "best_overlays.png", "worst_overlays.png"} <= names
    rows = list(csv.DictReader((place / "report" / "per_patient.csv").open()))
    assert set(columns()) <= set(rows[0]) and float(rows[0]["dice_LV_ED_original"]) > 0.9
    page = (place / "report" / "index.html").read_text()
    assert "<h2>Heart</h2>" in page and "Agreement of volumes" in page
    assert page.count("worst Dice</h2>") == 1  # alone, or beside the rank in PSNR


@pytest.mark.usefixtures("without_figures")
def test_without_a_segmenter_hearts_are_left_out_and_the_report_says_so(place: Path) -> None:
    summary = report(place, "plain")
    assert "dice" not in summary["mean"] and "groups" not in summary
    assert any("Hearts are not scored" in note for note in summary["notes"])
    assert "<h2>Heart</h2>" not in (place / "report" / "index.html").read_text()


@pytest.mark.usefixtures("without_figures")
def test_a_model_that_only_segments_scores_a_model_that_cannot_whatever_their_fields(place: Path) -> None:
    for name, least in (("plain", 0.9), ("wide", 0.8)):  # a fitted image is resampled
        summary = report(place, name, more=("--segmenter", str(place / "other")))
        assert summary["mean"]["dice_original"]["mean"] > least
        assert any("segmenter of other" in note for note in summary["notes"])


@pytest.mark.usefixtures("without_figures")
def test_figures_by_a_segmenter_of_the_training_are_marked_in_tables_and_page(place: Path) -> None:
    for more, taught in (((), True), (("--segmenter", str(place / "other")), False)):
        summary = report(place, "plain", "seeing", more=more)
        assert summary["reference_segmenter"]["independent_of"] == {"plain": True, "seeing": not taught}
        assert any("used in the training of seeing" in note for note in summary["notes"]) == taught
        headings, rows = comparison(summary)
        cells = {row[0]: row[headings.index("Dice")] for row in rows}
        assert (MARK in cells["seeing"]) == taught and MARK not in cells["plain"]
        page = (place / "report" / "index.html").read_text()
        assert ("are too favourable" in page) == taught
        lines = csv.DictReader((place / "report" / "per_patient.csv").open())
        assert {line["model"]: line["segmenter_taught_model"] for line in lines} == {
            "plain": "0", "seeing": str(int(taught))
        }  # fmt: skip


@pytest.mark.parametrize(
    ("names", "more", "says"),
    [
        (("other",), (), "--segmenter"),
        (("seeing",), ("plain",), "has no segmenter"),
        (("seeing",), ("nowhere",), "no such folder"),
    ],
)
def test_a_segmenter_that_cannot_be_used_is_one_clear_line(
    names: tuple[str, ...], more: tuple[str, ...], says: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("--segmenter", str(place / more[0])) if more else ()
    with pytest.raises(SystemExit):
        report(place, *names, more=extra)
    assert says in capsys.readouterr().err
    assert not (place / "report").exists()


def test_an_overlay_shows_the_heart_with_a_margin_and_everything_where_there_is_none() -> None:
    mask = np.zeros((60, 50, 2))
    mask[30:40, 20:30] = 1
    assert heart_box([mask], (2.0, 2.0)) == (slice(20, 50), slice(10, 40))
    assert heart_box([0 * mask], (2.0, 2.0)) == (slice(0, 60), slice(0, 50))
