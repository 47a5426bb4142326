from pathlib import Path

import numpy as np
import pytest

from data.case import CaseRefused
from data.sources.nifti import NiftiSource

SHAPE = (12, 10, 2, 4)


@pytest.fixture
def folder(tmp_path: Path, nifti) -> Path:
    """Two cines, `one` with the labels of phases 0 and 2."""
    rng = np.random.default_rng(0)
    (tmp_path / "site").mkdir()
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:9, 3:9, :, 0], labels[4:7, 4:7, :, 2] = 3, 3
    nifti(tmp_path / "one.nii.gz", rng.integers(0, 300, SHAPE).astype(np.int16))
    nifti(tmp_path / "one_gt.nii.gz", labels)
    nifti(tmp_path / "site" / "two.nii", rng.integers(0, 300, SHAPE).astype(np.int16))
    return tmp_path


def write_cases(folder: Path, *lines: str, head: str = "patient,ed,es,group,height_cm,weight_kg") -> None:
    (folder / "cases.csv").write_text("\n".join((head, *lines)) + "\n")


def test_cines_are_found_below_the_folder_and_masks_are_not_taken_for_one(folder):
    source = NiftiSource(folder)
    assert source.patients() == ["one", "two"]
    assert NiftiSource(folder, "site/*.nii").patients() == ["two"]


def test_what_no_table_tells_is_unknown(folder):
    case = NiftiSource(folder).load("two")
    assert (case.ed, case.es, case.group, case.height_cm, case.weight_kg, case.masks) == (None,) * 5 + ({},)
    assert case.spacing_mm == (1.5, 1.25, 8.0)


def test_the_labelled_phases_are_those_that_hold_a_label(folder):
    case = NiftiSource(folder).load("one")
    assert (case.ed, case.es) == (None, None)
    assert {phase: int((mask == 3).sum()) for phase, mask in case.masks.items()} == {0: 72, 2: 18}


def test_the_table_tells_key_frames_group_and_body(folder):
    write_cases(folder, "one, 0, 2, DCM, 170, ", "two,3.0,,,,61.5")
    source = NiftiSource(folder)
    one, two = source.load("one"), source.load("two")
    assert (one.ed, one.es, one.group, one.height_cm, one.weight_kg) == (0, 2, "DCM", 170.0, None)
    assert (two.ed, two.es, two.group, two.height_cm, two.weight_kg) == (3, None, None, None, 61.5)
    assert source.group("one") == "DCM" and source.group("two") is None


def test_masks_of_one_phase_go_to_the_key_frames_that_the_table_names(folder, nifti):
    nifti(folder / "site" / "two_ed_gt.nii.gz", np.full(SHAPE[:3], 1, np.uint8))
    nifti(folder / "site" / "two_es_gt.nii", np.full(SHAPE[:3], 2, np.uint8))
    write_cases(folder, "two,1,3", head="patient,ed,es")
    case = NiftiSource(folder).load("two")
    assert {phase: int(mask.max()) for phase, mask in case.masks.items()} == {1: 1, 3: 2}


def test_a_mask_of_ed_needs_the_table_to_say_which_phase_is_ed(folder, nifti):
    nifti(folder / "site" / "two_ed_gt.nii.gz", np.full(SHAPE[:3], 1, np.uint8))
    with pytest.raises(CaseRefused, match=r"two: two_ed_gt.nii.gz exists, but cases.csv does not give") as refusal:
        NiftiSource(folder).load("two")
    assert refusal.value.rule == "no_key_frame"


@pytest.mark.parametrize(
    ("line", "rule", "message"),
    [
        ("two,first,2", "no_key_frame", "cases.csv has ed=first"),
        ("two,-1,2", "no_key_frame", "cases.csv has ed=-1"),
        (f"two,{'9' * 400},2", "no_key_frame", "cases.csv has ed=9999"),
        ("two,4,2", "key_frame_outside", "ed is phase 4"),
        ("two,2,2", "same_key_frames", "both phase 2"),
    ],
)
def test_key_frames_that_cannot_be_are_refused(folder, line, rule, message):
    write_cases(folder, line)
    with pytest.raises(CaseRefused, match=message) as refusal:
        NiftiSource(folder).load("two")
    assert refusal.value.rule == rule


def test_labels_of_another_shape_than_the_cine_are_refused(folder, nifti):
    nifti(folder / "one_gt.nii.gz", np.zeros((12, 10, 2, 3), np.uint8))
    with pytest.raises(CaseRefused, match=r"one_gt.nii.gz has shape \(12, 10, 2, 3\)") as refusal:
        NiftiSource(folder).load("one")
    assert refusal.value.rule == "mask_shape"


def test_a_volume_without_phases_is_refused_by_name(folder, nifti):
    nifti(folder / "site" / "two.nii", np.ones(SHAPE[:3], np.int16))
    with pytest.raises(CaseRefused, match=r"two: two.nii has shape \(12, 10, 2\), expected \(H, W, D, T\)"):
        NiftiSource(folder).load("two")


def test_names_are_made_safe(folder, nifti):
    nifti(folder / "Müller, A. (2).nii.gz", np.ones(SHAPE, np.int16))
    assert "M_ller__A___2_" in NiftiSource(folder).patients()


def test_two_files_of_one_name_are_refused(folder, nifti):
    nifti(folder / "site" / "one.nii.gz", np.ones(SHAPE, np.int16))
    with pytest.raises(ValueError, match="one exists twice"):
        NiftiSource(folder)


def test_hidden_and_foreign_files_are_not_read(folder):
    (folder / "._one.nii.gz").write_bytes(b"left by a file system")
    (folder / "one.nii.txt").write_text("notes")
    assert NiftiSource(folder).patients() == ["one", "two"]


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", ""])
def test_a_pattern_stays_inside_the_folder(folder, pattern):
    with pytest.raises(ValueError, match="expected a glob inside"):
        NiftiSource(folder, pattern)


@pytest.mark.parametrize(
    ("head", "line", "message"),
    [
        ("patient,ed,es", "three,0,2", "lists three, but these cines do not exist"),
        ("patient,ed,es,weight", "one,0,2,70", "has the unknown column weight"),
        ("name,ed,es", "one,0,2", "has no column 'patient'"),
        ("patient,ed,es", "one,0,2\none,0,3", "two rows for one"),
        ("patient,ed,es", ",0,2", "line 2 has no patient"),
        ("patient,ed,es", "one,0,2,9", "line 2 has 4 cells for 3 columns"),
        ("patient,ed,ed", "one,0,2", "two columns 'ed'"),
        ("patient,ed,es", f"one,{'9' * 200_000},2", "line 2 cannot be read"),
    ],
)
def test_what_is_wrong_with_the_table_is_named(folder, head, line, message):
    write_cases(folder, line, head=head)
    with pytest.raises(ValueError, match=message):
        NiftiSource(folder)


def test_a_folder_without_cines_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no cines found"):
        NiftiSource(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        NiftiSource(tmp_path / "nowhere")


def test_the_hash_follows_files_and_table(folder, nifti):
    before = NiftiSource(folder).source_hash("one")
    write_cases(folder, "one,0,2,DCM")
    told = NiftiSource(folder).source_hash("one")
    nifti(folder / "one_gt.nii.gz", np.zeros(SHAPE, np.uint8))
    assert len({before, told, NiftiSource(folder).source_hash("one")}) == 3
