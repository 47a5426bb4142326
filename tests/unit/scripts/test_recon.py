"""Reconstructions by other methods are scored as those of a model, and a folder that does not fit is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.case import CineCase
from data.nifti.cine import save_cine, write_cine
from data.scoring.images import open_reference
from scripts import evaluate
from scripts.files import codec
from tests.pages import draw_no_figures
from tests.unit.scripts.test_evaluate import SIZE, BlockModel, make_case, read_rows, run, shards, write_shards  # noqa: F401

Run = Callable[..., dict[str, Any]]
PATIENTS = (make_case(2), make_case(3, slices=2, phases=6), make_case(4))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_no_figures(monkeypatch)


def save(path: Path, case: CineCase, change: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_cine(path, case.cine + change, case.affine, np.dtype(np.float32))


@pytest.fixture
def recon(tmp_path: Path) -> Path:
    """Every voxel is 10 too bright, in each of the three places where a file may be."""
    places = "patient002.nii.gz", "patient003_4d.nii", "patient004/patient004_4d.nii.gz"
    for case, place in zip(PATIENTS, places, strict=True):
        save(tmp_path / "recon" / place, case, 10.0)
    return tmp_path / "recon"


def score(data: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Score a folder without a model; gives summary.json."""
    output = folder.parent / "report"
    evaluate.main(["--recon_dir", str(folder), "--data", str(data), "--output_dir", str(output), *more])
    return json.loads((output / "summary.json").read_text())


def test_files_of_a_model_have_the_scores_and_bits_of_the_model(run: Run, shards: Path, tmp_path: Path) -> None:  # noqa: F811
    model, sizes = BlockModel("crop", anatomy=2), ["patient,bytes"]
    for case in PATIENTS:
        reference = open_reference(case, SIZE, "crop")
        data = codec.compress(model, reference)
        image = codec.decompress(model, data)
        floats = replace(case, cine=case.cine.astype(np.float32))  # so that values are not rounded
        (tmp_path / "files").mkdir(exist_ok=True)
        write_cine(tmp_path / "files" / f"{case.patient}.nii.gz", image[None], floats, reference.prepared)
        sizes.append(f"{case.patient},{len(data)}")
    (tmp_path / "files" / "bytes.csv").write_text("\n".join(sizes))
    summary = run(shards, "--recon_dir", str(tmp_path / "files"), names=("stage2",))
    files, direct = summary["models"]["files"]["mean"], summary["models"]["stage2"]["mean"]
    assert summary["model"] == "stage2" and list(summary["models"]) == ["files", "stage2"]
    for key in ("psnr", "ssim", "psnr_heart", "flicker"):
        assert files[key] == pytest.approx(direct[key], rel=1e-4)
    for key in ("bits", "bits_per_frame", "ratio_int16", "ratio_true_depth", "ratio_nii_gz"):
        assert files[key] == direct[key]
    assert files["tokens"] is None


def test_without_a_model_the_whole_image_is_scored_and_the_missing_rate_is_said(
    shards: Path,  # noqa: F811
    recon: Path,
    tmp_path: Path,
) -> None:
    summary = score(shards, recon)
    assert summary["model"] == "recon" and summary["cohort"]["patients"] == 3 and not summary["baselines"]
    assert summary["mean"]["bits_per_frame"] is None and summary["mean"]["heart_in_field"] == 1
    assert any("the whole image" in note for note in summary["notes"])
    assert any("no rate, for recon" in note for note in summary["notes"])
    for case, row in zip(PATIENTS, read_rows(tmp_path), strict=True):
        low, high = open_reference(case, 40, "fit").prepared.window
        original, changed = (np.clip((case.cine + by - low) / (high - low), 0, 1) for by in (0.0, 10.0))
        error = ((original - changed) ** 2).mean(axis=(0, 1))
        assert float(row["psnr"]) == pytest.approx(float((-10 * np.log10(error)).mean()), abs=1e-3)
        assert row["bits"] == row["tokens"] == ""
    page = (tmp_path / "report" / "index.html").read_text()
    assert "unknown rate" in page and not re.search(r"\bnan\b", page.lower())


def test_a_file_with_flipped_axes_is_brought_to_the_grid_of_the_original(tmp_path: Path) -> None:
    affine = np.array([[1.5, 0, 0, -20], [0, 1.5, 0, 7], [0, 0, 8, 0], [0, 0, 0, 1.0]])
    case = replace(make_case(2), affine=affine)
    data = write_shards(tmp_path / "placed_wds", {"test": [case]})
    save(tmp_path / "straight" / "patient002.nii.gz", case, 10.0)
    flip = np.array([[-1, 0, 0, case.cine.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    save(tmp_path / "flipped" / "patient002.nii.gz", replace(case, cine=case.cine[::-1], affine=affine @ flip), 10.0)
    straight, flipped = (score(data, tmp_path / name)["mean"]["psnr"] for name in ("straight", "flipped"))
    assert flipped == pytest.approx(straight, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,size\npatient002,5\n", "has no column 'patient'"),
        ("patient,bytes\npatient002,5\npatient002,6\n", "two rows for patient002"),
        ("patient,bytes\npatient002,5\n", "no line for patient003"),
        ("patient,bytes\npatient002,5\npatient003,-1\npatient004,5\n", "bytes of patient003 is '-1'"),
    ],
)
def test_a_list_of_sizes_that_does_not_fit_is_refused(
    shards: Path,  # noqa: F811
    recon: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    message: str,
) -> None:
    (recon / "bytes.csv").write_text(text, encoding="utf-16")  # as a spreadsheet saves it
    with pytest.raises(SystemExit):
        score(shards, recon)
    assert message in capsys.readouterr().err


def test_a_missing_folder_and_a_missing_file_are_named_before_any_work(
    shards: Path,  # noqa: F811
    recon: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (recon / "patient003_4d.nii").unlink()
    for folder, message in ((tmp_path / "nowhere", "no such folder"), (recon, "there is no patient003.nii.gz")):
        with pytest.raises(SystemExit):
            score(shards, folder)
        assert message in capsys.readouterr().err


def test_a_damaged_file_costs_no_other_patient(
    shards: Path,  # noqa: F811
    recon: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = recon / "patient002.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    save(recon / "patient003_4d.nii", make_case(3, slices=2, phases=5))
    with pytest.raises(SystemExit):
        score(shards, recon)
    printed = capsys.readouterr()
    assert "2 of 3 patients could not be scored" in printed.err
    assert "has shape (40, 36, 2, 5), the original has (40, 36, 2, 6)" in printed.err
    assert json.loads((recon.parent / "report" / "summary.json").read_text())["n"] == 1


def test_nothing_to_evaluate_is_an_error(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with pytest.raises(SystemExit):
        evaluate.main(["--data", str(shards), "--output_dir", str(tmp_path / "report")])
    assert "give --model, or --recon_dir" in capsys.readouterr().err
