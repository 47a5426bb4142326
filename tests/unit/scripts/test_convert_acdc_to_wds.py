import subprocess
import sys
from pathlib import Path

import pytest

from data.shards import ShardReader, ShardWriter
from scripts import convert_acdc_to_wds
from utils.files import read_json


@pytest.fixture
def acdc(tmp_path: Path, acdc_patient) -> Path:
    for number in range(1, 11):
        acdc_patient(tmp_path / "acdc" / f"patient{number:03d}", hwd=(16, 18, 2), phases=4, ed=1, es=3, seed=number)
    return tmp_path / "acdc"


@pytest.fixture
def convert(monkeypatch, tmp_path: Path):
    def run(*arguments: str, output: str = "out", workers: int = 1) -> Path:
        fixed = ["--input_dir", str(tmp_path / "acdc"), "--output_dir", str(tmp_path / output)]
        monkeypatch.setattr(sys, "argv", ["convert", *fixed, "--workers", str(workers), *arguments])
        convert_acdc_to_wds.main()
        return tmp_path / output

    return run


def damage(patient: Path) -> None:
    path = patient / f"{patient.name}_4d.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


def test_every_patient_goes_to_one_split_and_the_counts_are_told(acdc, convert, capsys):
    manifest = read_json(convert() / "manifest.json")
    assert {name: len(patients) for name, patients in manifest["split"].items()} == {"train": 7, "val": 1, "test": 2}
    assert manifest["counts"]["train"] == {"patients": 7, "slices": 14, "frames": 56}
    assert "train: 7 patients, 14 slices, 56 frames" in capsys.readouterr().out
    assert "patient" not in str(manifest["settings"]) and str(acdc) not in str(manifest)


def test_the_bytes_do_not_depend_on_the_workers(acdc, convert):
    folders = [convert(output="one"), convert(output="two", workers=2)]
    names = [sorted(p.name for p in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names[0])


def test_the_two_frames_can_be_converted(acdc, convert):
    reader = ShardReader(convert("--modality", "ed_es"), "train")
    assert all(entry.phases == 2 and sorted(entry.masks) == [0, 1] for entry in reader.samples)


def test_a_cohort_of_one_goes_to_train_or_to_test_as_told(tmp_path, acdc_patient, convert):
    acdc_patient(tmp_path / "acdc" / "patient001")
    assert ShardReader(convert(), "train").patients().keys() == {"patient001"}
    assert ShardReader(convert("--test_fraction", "1", output="test"), "test").patients().keys() == {"patient001"}


def test_acdcs_own_test_folder_is_the_test_set_unless_a_fraction_is_given(tmp_path, acdc_patient, convert):
    for number in range(1, 11):
        folder = "testing" if number > 7 else "training"
        acdc_patient(tmp_path / "acdc" / folder / f"patient{number:03d}")
    assert read_json(convert() / "manifest.json")["split"]["test"] == ["patient008", "patient009", "patient010"]
    pooled = convert("--test_fraction", "0.2", output="pooled")
    assert len(read_json(pooled / "manifest.json")["split"]["test"]) == 2


def test_small_shards_keep_a_patient_together(acdc, convert, monkeypatch):
    monkeypatch.setattr(convert_acdc_to_wds, "ShardWriter", lambda folder, size: ShardWriter(folder, size >> 10))
    reader = ShardReader(convert("--shard_mib", "8"), "train")
    homes = {entry.patient: {e.shard for e in reader.samples if e.patient == entry.patient} for entry in reader.samples}
    assert len(reader.manifest["shards"]["train"]) > 1 and all(len(shards) == 1 for shards in homes.values())


def test_a_damaged_patient_is_skipped_and_named_with_its_reason(acdc, convert, capsys):
    damage(acdc / "patient004")
    folder = convert()
    (skipped,) = read_json(folder / "manifest.json")["skipped"]
    assert skipped["patient"] == "patient004" and "patient004_4d.nii.gz is truncated" in skipped["reason"]
    assert "patient004: patient004_4d.nii.gz is truncated" in capsys.readouterr().out
    assert "patient004" not in str(read_json(folder / "manifest.json")["split"])


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_a_damaged_patient_and_leaves_nothing(acdc, convert, capsys, workers):
    damage(acdc / "patient004")
    with pytest.raises(SystemExit, match="1"):
        convert("--strict", workers=workers)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: patient004: patient004_4d.nii.gz is truncated")
    assert [p.name for p in acdc.parent.iterdir()] == ["acdc"]


def test_no_output_is_left_when_no_patient_can_be_converted(acdc, convert, capsys):
    for path in acdc.glob("*/*_4d.nii.gz"):
        path.unlink()
    with pytest.raises(SystemExit):
        convert()
    assert "none of the 10 patients" in capsys.readouterr().err
    assert [p.name for p in acdc.parent.iterdir()] == ["acdc"]


def test_an_excluded_patient_is_left_out(acdc, convert):
    manifest = read_json(convert("--exclude", "patient002", "patient003") / "manifest.json")
    assert sum(len(patients) for patients in manifest["split"].values()) == 8


def test_converting_again_does_nothing(acdc, convert, capsys):
    folder = convert()
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    convert()
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_converting_again_with_a_damaged_patient_does_nothing_either(acdc, convert, capsys):
    damage(acdc / "patient004")
    (acdc / "patient005" / "Info.cfg").unlink()
    convert()
    convert()
    assert "nothing to do" in capsys.readouterr().out


def test_other_settings_or_other_files_never_overwrite(acdc, convert, capsys):
    folder = convert()
    with pytest.raises(SystemExit):
        convert("--seed", "1")
    assert "other settings" in capsys.readouterr().err
    (acdc / "patient001" / "Info.cfg").write_text("ED: 2\nES: 3\n")
    with pytest.raises(SystemExit):
        convert()
    assert "other source files" in capsys.readouterr().err
    assert len(ShardReader(folder, "train").patients()) == 7


def test_a_folder_with_other_files_is_never_touched(acdc, convert, capsys):
    (acdc.parent / "out").mkdir()
    (acdc.parent / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        convert()
    assert "choose another --output_dir" in capsys.readouterr().err
    assert (acdc.parent / "out" / "thesis.txt").read_text() == "mine"


def test_a_missing_input_folder_is_one_line(convert, capsys):
    with pytest.raises(SystemExit):
        convert()
    assert capsys.readouterr().err.count("\n") == 1


def test_the_script_runs_from_any_folder_and_needs_no_torch(tmp_path):
    script = Path(convert_acdc_to_wds.__file__)
    run = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Research use only, not a medical device" in run.stdout
    code = "import sys; import scripts.convert_acdc_to_wds; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=script.parents[1], check=True)
