"""What a source finds it reads, or names."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.case import CaseRefused
from data.sources import acdc
from data.sources.acdc import OTHER, AcdcSource
from data.sources.mnms import MnmsSource
from data.sources.nifti import NiftiSource

SHAPE = (12, 12, 2, 4)


@pytest.fixture
def folder(tmp_path: Path, nifti) -> Path:
    """A folder with the cine `one`, and beside it the folder `elsewhere` with `two` and its labels."""
    cine = np.random.default_rng(0).integers(0, 300, SHAPE).astype(np.int16)
    for name, stem in (("in", "one"), ("elsewhere", "two")):
        (tmp_path / name).mkdir()
        nifti(tmp_path / name / f"{stem}.nii.gz", cine)
    nifti(tmp_path / "elsewhere" / "two_gt.nii.gz", np.ones(SHAPE, np.uint8))
    return tmp_path / "in"


def test_linked_folders_and_files_are_read(folder: Path):
    (folder / "site").symlink_to(folder.parent / "elsewhere")
    (folder / "three.nii.gz").symlink_to(folder.parent / "elsewhere" / "two.nii.gz")
    source = NiftiSource(folder)
    assert source.patients() == ["one", "two"] and len(source.load("two").masks) == 4
    assert source.unread_files() == {"three.nii.gz": "the same file as site/two.nii.gz"}
    (folder / "site").unlink()
    assert NiftiSource(folder).patients() == ["one", "three"]


def test_links_in_a_circle_are_walked_once(folder: Path):
    (folder / "a").mkdir()
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to(folder / "a")
    source = NiftiSource(folder)
    assert source.patients() == ["one"]
    assert source.unread_files() == {"a/up": "the same folder as the input folder", "b": "the same folder as a"}


def test_a_cine_that_is_a_dead_link_is_a_patient_whose_file_is_missing(folder: Path):
    (folder / "two.nii.gz").symlink_to(folder / "gone.nii.gz")
    source = NiftiSource(folder)
    assert source.patients() == ["one", "two"]
    with pytest.raises(CaseRefused, match=r"two.nii.gz is a broken link") as refusal:
        source.load("two")
    assert refusal.value.rule == "missing_file"


def test_labels_that_are_a_dead_link_refuse_the_case_instead_of_leaving_it_unlabelled(folder: Path):
    (folder / "one_gt.nii.gz").symlink_to(folder / "gone.nii.gz")
    with pytest.raises(CaseRefused, match=r"one_gt.nii.gz is a broken link"):
        NiftiSource(folder).load("one")


def test_whatever_else_lies_there_is_named(folder: Path, nifti):
    for name in ("notes.txt", "ONE.NII.GZ", "._one.nii.gz", "cases.csv"):
        (folder / name).write_text("patient\n")
    (folder / ".git").mkdir()
    nifti(folder / "one_gt.nii", np.ones(SHAPE, np.uint8))
    nifti(folder / "three_gt.nii.gz", np.ones(SHAPE, np.uint8))
    nifti(folder / "one_gt.nii.gz", np.ones(SHAPE, np.uint8))
    nifti(folder / "one_ed_gt.nii.gz", np.ones(SHAPE[:3], np.uint8))
    (folder / "site").symlink_to(folder / "gone")
    os.mkfifo(folder / "pipe.nii.gz")
    assert NiftiSource(folder).unread_files() == {
        "notes.txt": "not a NIfTI file name",
        "ONE.NII.GZ": "not a NIfTI file name",
        "._one.nii.gz": "not a NIfTI file name",
        ".git": "a hidden folder",
        "three_gt.nii.gz": "labels without a cine",
        "one_gt.nii": "other labels of its cine are read",
        "one_ed_gt.nii.gz": "other labels of its cine are read",
        "site": "a broken link",
        "pipe.nii.gz": "not a regular file",
    }


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [("*.nii.gz", ["one"]), ("site/**/*.nii*", ["two"]), ("**/t*.nii.gz", ["two"]), ("*/*", ["two"]), ("**/*", None)],
)
def test_a_pattern_is_a_glob_below_the_folder(folder: Path, pattern: str, patients: list[str] | None):
    (folder / "site").symlink_to(folder.parent / "elsewhere")
    source = NiftiSource(folder, pattern)
    assert source.patients() == (patients or ["one", "two"])
    assert ("does not match the pattern" in source.unread_files().values()) == (patients is not None)


def test_acdc_names_what_is_no_patient_and_labels_that_it_does_not_read(tmp_path: Path, acdc_patient):
    patient = acdc_patient(tmp_path / "training" / "patient001")
    for name in ("patient001_frame03_gt.nii.gz", "patient001_4d.nii", "patient001_4d_v2.nii.gz", "notes.txt"):
        (patient / name).write_bytes(b"")
    (patient / "old").symlink_to(tmp_path / "gone")
    (tmp_path / "LICENSE.md").write_text("terms")
    (tmp_path / "more" / "patient002").mkdir(parents=True)
    acdc_patient(tmp_path / "training" / ".0a1b2c3d.patient002")  # a patient that another program is writing
    (tmp_path / "training" / "scans").symlink_to(tmp_path / "gone")
    (tmp_path / "training" / "patient003").symlink_to(tmp_path / "gone")
    source = AcdcSource(tmp_path)
    assert source.patients() == ["patient001", "patient003"]
    assert source.unread_files() == {
        "LICENSE.md": "not a folder of a patient",
        "more": "not a folder of a patient",
        "training/.0a1b2c3d.patient002": "not a folder of a patient",
        "training/scans": "a broken link",
        "training/patient001/patient001_frame03_gt.nii.gz": OTHER,
        "training/patient001/patient001_4d.nii": OTHER,
        "training/patient001/patient001_4d_v2.nii.gz": OTHER,
        "training/patient001/notes.txt": OTHER,
        "training/patient001/old": "a broken link",
    }
    with pytest.raises(CaseRefused, match="its folder is a broken link"):
        source.load("patient003")


def test_mnms_names_what_is_no_patient_and_lines_without_a_folder(tmp_path: Path):
    (tmp_path / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text(
        "External code,ED,ES\nA1,0,2\nB2,0,2\n"
    )
    (tmp_path / "Testing" / "A1").mkdir(parents=True)
    (tmp_path / "Testing" / "A1" / "A1_la.nii.gz").write_bytes(b"")
    (tmp_path / "Testing" / "C3").symlink_to(tmp_path / "gone")
    (tmp_path / "Training" / "Extra").mkdir(parents=True)
    (tmp_path / "readme.txt").write_text("")
    source = MnmsSource(tmp_path)
    assert source.patients() == ["A1", "C3"]
    assert source.unread_files() == {
        "readme.txt": "not a folder of a patient",
        "Training/Extra": "not a folder of a patient",
        "Testing/A1/A1_la.nii.gz": "not the cine or its labels",
        "B2": "a row of 211230_M&Ms_Dataset_information_diagnosis_opendataset.csv without a folder",
    }
    with pytest.raises(CaseRefused, match=r"C3_sa.nii.gz is missing"):
        source.load("C3")


def test_one_info_file_that_cannot_be_read_costs_no_other_patient(tmp_path: Path, acdc_patient, monkeypatch):
    first, second = (acdc_patient(tmp_path / f"patient00{number}") for number in (1, 2))
    (second / "Info.cfg").write_text(f"ED: {'9' * 5000}\nES: 2\n")
    read = acdc.read_text

    def fails(path: Path) -> str:
        if path.parent == first:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(acdc, "read_text", fails)
    source = AcdcSource(tmp_path)
    assert source.group("patient001") is None and source.unread_files() == {}
    with pytest.raises(CaseRefused, match=r"expected a whole number from 1"):
        source.load("patient002")


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_table_that_is_no_file_is_an_error(folder: Path, kind: str):
    if kind == "link":
        (folder / "cases.csv").symlink_to(folder / "gone.csv")
    else:
        (folder / "cases.csv").mkdir()
    with pytest.raises(ValueError, match=r"cases.csv: is (a broken link|not a file)"):
        NiftiSource(folder)
