"""What a source finds it reads, or names."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.case import CaseRefused
from data.sources.acdc import AcdcSource
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
        "one_ed_gt.nii.gz": "labels without a cine",
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
    (patient / "patient001_frame03_gt.nii.gz").write_bytes(b"")
    (tmp_path / "LICENSE.md").write_text("terms")
    (tmp_path / "more" / "patient002").mkdir(parents=True)
    (tmp_path / "training" / "scans").symlink_to(tmp_path / "gone")
    (tmp_path / "training" / "patient003").symlink_to(tmp_path / "gone")
    source = AcdcSource(tmp_path)
    assert source.patients() == ["patient001", "patient003"]
    assert source.unread_files() == {
        "LICENSE.md": "not a folder of a patient",
        "more": "not a folder of a patient",
        "training/scans": "a broken link",
        "training/patient001/patient001_frame03_gt.nii.gz": "labels of a frame other than ED and ES",
    }
    with pytest.raises(CaseRefused, match="its folder is a broken link"):
        source.load("patient003")


def test_mnms_names_what_is_no_patient_and_lines_without_a_folder(tmp_path: Path):
    (tmp_path / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv").write_text(
        "External code,ED,ES\nA1,0,2\nB2,0,2\n"
    )
    (tmp_path / "Testing" / "A1").mkdir(parents=True)
    (tmp_path / "Testing" / "C3").symlink_to(tmp_path / "gone")
    (tmp_path / "Training" / "Extra").mkdir(parents=True)
    (tmp_path / "readme.txt").write_text("")
    source = MnmsSource(tmp_path)
    assert source.patients() == ["A1", "C3"]
    assert source.unread_files() == {
        "readme.txt": "not a folder of a patient",
        "Training/Extra": "not a folder of a patient",
        "B2": "a row of 211230_M&Ms_Dataset_information_diagnosis_opendataset.csv without a folder",
    }
    with pytest.raises(CaseRefused, match=r"C3_sa.nii.gz is missing"):
        source.load("C3")
