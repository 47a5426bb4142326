import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import pytest

from data.shards.reader import ShardReader
from data.sources import acdc as acdc_source
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


def damage(patient: Path) -> bytes:
    """Cut a patient's cine short; returns what it was."""
    path = patient / f"{patient.name}_4d.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    return whole


def error_of(convert, capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit, match="1"):
        convert(*arguments)
    return capsys.readouterr().err.splitlines()[-1]


def test_every_patient_goes_to_one_split_and_the_counts_are_told(acdc, convert, capsys):
    manifest = read_json(convert() / "manifest.json")
    assert {name: len(patients) for name, patients in manifest["split"].items()} == {"train": 7, "val": 1, "test": 2}
    assert manifest["counts"]["train"] == {"patients": 7, "slices": 14, "frames": 56}
    assert "train: 7 patients, 14 slices, 56 frames" in capsys.readouterr().out
    assert "patient" not in str(manifest["settings"]) and str(acdc) not in str(manifest)


def test_what_is_not_read_is_named_and_reaches_no_file(acdc, convert, capsys):
    (acdc / "Jane Doe.txt").write_text("notes")
    out = convert()
    assert "not read in the input folder (1):\n  Jane Doe.txt: not a folder of a patient\n" in capsys.readouterr().out
    assert all("Jane" not in path.read_text() for path in out.glob("*.json"))


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


def test_small_shards_keep_a_patient_together(acdc, convert):
    reader = ShardReader(convert("--shard_mib", "0.008"), "train")
    homes = {entry.patient: {e.shard for e in reader.samples if e.patient == entry.patient} for entry in reader.samples}
    assert len(reader.manifest["shards"]["train"]) > 1 and all(len(shards) == 1 for shards in homes.values())


def test_a_damaged_patient_is_skipped_and_named_with_its_reason(acdc, convert, capsys):
    damage(acdc / "patient004")
    folder = convert()
    (skipped,) = read_json(folder / "manifest.json")["skipped"]
    assert skipped["patient"] == "patient004" and "patient004_4d.nii.gz is truncated" in skipped["reason"]
    assert re.fullmatch("[a-z_]+", skipped["rule"])
    assert "patient004: patient004_4d.nii.gz is truncated" in capsys.readouterr().out
    assert "patient004" not in str(read_json(folder / "manifest.json")["split"])


@pytest.mark.parametrize("workers", [1, 2])
def test_strict_stops_at_a_damaged_patient_and_goes_on_from_there_once_it_is_mended(acdc, convert, capsys, workers):
    whole = damage(acdc / "patient004")
    with pytest.raises(SystemExit, match="1"):
        convert("--strict", workers=workers)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: patient004: patient004_4d.nii.gz is truncated")
    assert not (acdc.parent / "out").exists()
    (acdc / "patient004" / "patient004_4d.nii.gz").write_bytes(whole)
    convert("--strict", workers=workers)
    assert "resuming after 3 of 10 patients" in capsys.readouterr().out
    assert len(read_json(acdc.parent / "out" / "manifest.json")["source"]["patients"]) == 10


def test_no_output_is_left_when_no_patient_can_be_converted(acdc, convert, capsys):
    for path in acdc.glob("*/*_4d.nii.gz"):
        path.unlink()
    with pytest.raises(SystemExit):
        convert()
    assert "none of the 10 patients" in capsys.readouterr().err
    assert [p.name for p in acdc.parent.iterdir()] == ["acdc"]


@pytest.mark.parametrize("gone", ["01", "03"])
def test_a_patient_with_one_mask_alone_is_converted(acdc, convert, gone):
    (acdc / "patient004" / f"patient004_frame{gone}_gt.nii.gz").unlink()
    assert not read_json(convert() / "manifest.json")["skipped"]


def test_a_split_whose_patients_were_all_skipped_says_so(acdc, convert, capsys):
    for number in range(2, 11):
        damage(acdc / f"patient{number:03d}")
    convert()
    said = capsys.readouterr().out
    assert "skipped 9 of 10 patients" in said and "test is empty; its 2 patients were skipped" in said


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


def test_no_path_and_no_header_text_of_the_source_is_written(acdc, convert):
    path = acdc / "patient001" / "patient001_4d.nii.gz"
    image = nib.load(path)
    image.header["descrip"], image.header["db_name"] = b"DOE^JANE", b"SECRET-17"
    image = nib.Nifti1Image(image.dataobj, image.affine, image.header)
    nib.save(image, path)
    assert b"DOE^JANE" in gzip.decompress(path.read_bytes())
    (acdc / "patient002" / "patient002_4d.nii.gz").write_bytes(b"this is no NIfTI file")  # nibabel names its whole path
    for file in convert().iterdir():
        content = file.read_bytes()
        assert not any(text in content for text in (b"DOE^JANE", b"SECRET-17", str(acdc).encode(), b'.nii.gz" '))


def test_an_error_of_the_disk_keeps_the_path_to_itself(acdc, convert, monkeypatch):
    def load(source, patient):
        raise PermissionError(13, "Permission denied", str(acdc / patient / "Info.cfg"))

    load_well = acdc_source.AcdcSource.load
    monkeypatch.setattr(
        acdc_source.AcdcSource, "load", lambda s, p: load(s, p) if p == "patient001" else load_well(s, p)
    )
    (skipped,) = read_json(convert() / "manifest.json")["skipped"]
    assert skipped == {"patient": "patient001", "rule": "unreadable", "reason": "Info.cfg: Permission denied"}


@dataclass
class OneKind:
    """Options of a source without folder and modality."""

    spacing_mm: float = 1.0


def test_another_source_with_its_own_options_can_be_converted(acdc, convert, monkeypatch):
    source = acdc_source.AcdcSource(acdc)
    asked = []
    monkeypatch.setattr(acdc_source, "Options", OneKind)
    monkeypatch.setattr(acdc_source, "build", lambda options: asked.append(options) or source)
    arguments = ["--output_dir", str(acdc.parent / "own"), "--workers", "1", "--source_option", "spacing_mm=2"]
    monkeypatch.setattr(sys, "argv", ["convert", *arguments, "--modality", "4d_mri"])
    convert_acdc_to_wds.main()
    assert asked == [OneKind(2.0)]
    manifest = read_json(acdc.parent / "own" / "manifest.json")
    assert manifest["settings"]["source_options"] == {"spacing_mm": 2}
    assert manifest["settings"]["modality"] == "4d_mri"
    monkeypatch.setattr(sys, "argv", ["convert", *arguments, "--modality", "ed_es"])
    with pytest.raises(SystemExit):
        convert_acdc_to_wds.main()


def test_a_source_that_reads_a_folder_asks_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convert", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        convert_acdc_to_wds.main()
    assert capsys.readouterr().err.startswith("error: --input_dir is missing")


def test_an_unknown_option_of_the_source_is_an_error_that_names_it(acdc, convert, capsys):
    assert "source.modalty: unknown key; did you mean" in error_of(convert, capsys, "--source_option", "modalty=x")


def test_every_patient_is_tested_in_exactly_one_fold(acdc, convert):
    splits = []
    for fold in range(5):
        folder = convert("--folds", "5", "--fold", str(fold), output=f"fold{fold}")
        manifest = read_json(folder / "manifest.json")
        assert (manifest["settings"]["folds"], manifest["settings"]["fold"]) == (5, fold)
        splits.append(manifest["split"])
    assert sorted(p for split in splits for p in split["test"]) == sorted(p.name for p in acdc.iterdir())


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_file_says_who_belongs_where(acdc, convert, tmp_path, form):
    split = {"train": [f"patient{n:03d}" for n in range(1, 7)], "val": ["patient007"], "test": ["patient009"]}
    path = tmp_path / f"split.{form}"
    rows = "".join(f"{patient},{name}\n" for name, patients in split.items() for patient in patients)
    path.write_text(json.dumps(split) if form == "json" else "patient,split\n" + rows)
    manifest = read_json(convert("--split_file", str(path), "--exclude", "patient008", "patient010") / "manifest.json")
    assert manifest["split"] == split
    assert str(path) not in str(manifest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "5"], "--folds and --fold belong together"),
        (["--folds", "5", "--fold", "5"], "fold is 5, expected 0 to 4"),
        (["--folds", "5", "--fold", "0", "--test_fraction", "0.1"], "--folds and --test_fraction both"),
        (["--split_file", "split.json", "--folds", "5", "--fold", "0"], "--split_file and --folds both"),
        (["--workers", "0"], "--workers is 0"),
        (["--shard_mib", "nan"], "--shard_mib is nan"),
        (["--exclude", "patient099"], "patient099"),
        (["--modality", "cine"], "modality is 'cine'"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(acdc, convert, capsys, arguments, message):
    assert message in error_of(convert, capsys, *arguments)
    assert [p.name for p in acdc.parent.iterdir()] == ["acdc"]


def test_a_killed_conversion_leaves_no_process_behind_and_goes_on(acdc, convert, tmp_path):
    """The main process kills itself after the third patient; its workers must not outlive it."""
    script = Path(convert_acdc_to_wds.__file__)
    killed = (
        "import os, sys; from data.shards.journal import Journal; from scripts import convert_acdc_to_wds as c\n"
        "append = Journal.append\n"
        "def kill(self, entry):\n"
        "    append(self, entry)\n"
        "    if len(self.lines) == 4: os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n"
        "    Journal.append = kill\n"
        "    c.main()\n"
    )
    arguments = ["--input_dir", acdc, "--output_dir", tmp_path / "out", "--workers", "2"]
    # a pipe that all processes inherit ends only when the last of them does
    run = subprocess.run(
        [sys.executable, "-c", killed, *arguments], cwd=script.parents[1], capture_output=True, timeout=60
    )
    assert run.returncode == -9 and not (tmp_path / "out").exists()
    folders = [convert(), convert(output="whole")]
    names = sorted(os.listdir(folders[1]))
    assert names == sorted(os.listdir(folders[0]))
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_two_jobs_convert_a_part_each_and_their_merge_is_one_conversion(acdc, convert, tmp_path, capsys):
    damage(acdc / "patient004")
    command = [sys.executable, convert_acdc_to_wds.__file__, "--input_dir", acdc, "--output_dir", tmp_path / "out"]
    jobs = [
        subprocess.Popen([*command, "--workers", "1", "--part", part], stdout=subprocess.PIPE, text=True)
        for part in ("1/2", "2/2")
    ]
    printed = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert "part 1/2 is complete" in printed[0] and "5 patients, 0 skipped" in printed[0]
    assert "5 patients, 1 skipped" in printed[1] and "patient004: " in printed[1]
    assert set(os.listdir(tmp_path)) == {"acdc", "out.parts"}
    folders = [convert("--merge_parts"), convert(output="whole")]
    assert sorted(os.listdir(tmp_path)) == ["acdc", "out", "whole"]
    names = sorted(os.listdir(folders[1]))
    assert names == sorted(os.listdir(folders[0]))
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)
    capsys.readouterr()
    convert("--merge_parts")
    convert("--part", "1/2")
    assert capsys.readouterr().out.count("nothing to do") == 2


def test_wrong_parts_give_one_clear_line(acdc, convert, capsys):
    assert error_of(convert, capsys, "--part", "3/2") == (
        "error: --part is '3/2', expected K/N with K from 1 to N, such as 3/16"
    )
    assert "--part converts one part, --merge_parts merges" in error_of(
        convert, capsys, "--part", "1/2", "--merge_parts"
    )
    assert "holds no parts; run the command with --part 1/N to N/N first" in error_of(convert, capsys, "--merge_parts")
    convert("--part", "1/2")
    assert "1 of 2 parts are missing; run --part for 2/2" in error_of(convert, capsys, "--merge_parts")
    assert "seed 0 instead of 1" in error_of(convert, capsys, "--part", "1/2", "--seed", "1")


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
