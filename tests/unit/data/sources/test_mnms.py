from pathlib import Path

import numpy as np
import pytest

from data.case import CaseRefused
from data.sources.mnms import MnmsSource

TABLE = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
HEAD = ",External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight"
ROWS = (
    "0,A0A0A0,Siemens,A,1,0,3,50,HCM,M,184.0,79.5",
    "1,B0B0B0,GE,C,4,0,0,60,,F,,",
    "2,C0C0C0,Philips,B,2,4,1,70,NOR,M,170,70",
    "3,D0D0D0,Canon,D,5,0,2,33,DCM,F,160,55",
    "4,E0E0E0,Canon,D,5,0,2,33,DCM,F,160,55",  # in the table, not in the folder: some cases need an application
)


@pytest.fixture
def folder(tmp_path: Path, nifti) -> Path:
    """One patient in each part; labels 1, 2 and 3 stand in rows 2, 3 and 4."""
    (tmp_path / TABLE).write_text("\n".join((HEAD, *ROWS)) + "\n")
    parts = {"Training/Labeled": "A0A0A0", "Training/Unlabeled": "B0B0B0", "Validation": "C0C0C0", "Testing": "D0D0D0"}
    for part, code in parts.items():
        (tmp_path / part / code).mkdir(parents=True)
        cine = np.random.default_rng(0).integers(0, 300, (12, 10, 2, 5)).astype(np.int16)
        nifti(tmp_path / part / code / f"{code}_sa.nii.gz", cine)
        labels = np.zeros(cine.shape)
        for label in (1, 2, 3):
            labels[label + 1, ..., 0] = labels[label + 1, ..., 3] = label
        nifti(tmp_path / part / code / f"{code}_sa_gt.nii.gz", labels)
    return tmp_path


def test_patients_of_all_parts_are_found_and_testing_is_held_out(folder):
    source = MnmsSource(folder)
    assert source.patients() == ["A0A0A0", "B0B0B0", "C0C0C0", "D0D0D0"]
    assert [source.held_out(patient) for patient in source.patients()] == [False, False, False, True]


def test_the_folder_may_be_the_one_that_holds_the_dataset(folder, tmp_path_factory):
    parent = tmp_path_factory.mktemp("MnM")
    (parent / "OpenDataset").symlink_to(folder)
    assert MnmsSource(parent).patients() == MnmsSource(folder).patients()


def test_key_frames_count_from_zero_and_the_rest_is_as_the_table_says(folder):
    case = MnmsSource(folder).load("A0A0A0")
    assert (case.ed, case.es, case.group, case.height_cm, case.weight_kg) == (0, 3, "HCM", 184.0, 79.5)


def test_labels_are_translated_to_rv_myo_lv(folder):
    masks = MnmsSource(folder).load("A0A0A0").masks
    assert sorted(masks) == [0, 3]
    assert [int(masks[0][row].max()) for row in (2, 3, 4)] == [3, 2, 1]  # theirs: 1 LV, 2 MYO, 3 RV


def test_an_unlabelled_patient_has_neither_masks_nor_key_frames(folder):
    source = MnmsSource(folder)
    case = source.load("B0B0B0")
    assert (case.masks, case.ed, case.es, case.group, case.height_cm) == ({}, None, None, None, None)


def test_a_missing_cine_is_named(folder):
    (folder / "Testing/D0D0D0/D0D0D0_sa.nii.gz").unlink()
    with pytest.raises(CaseRefused, match=r"D0D0D0: D0D0D0_sa.nii.gz is missing") as refusal:
        MnmsSource(folder).load("D0D0D0")
    assert refusal.value.rule == "missing_file"


@pytest.mark.parametrize(
    ("old", "new", "rule", "message"),
    [
        (ROWS[0] + "\n", "", "no_key_frame", "has no row for it"),
        ("1,0,3,50", "1,0,0,50", "same_key_frames", "both phase 0"),
        ("1,0,3,50", "1,0,9,50", "key_frame_outside", "es is phase 9"),
        ("1,0,3,50", "1,0,x,50", "no_key_frame", "has ES=x"),
    ],
)
def test_a_labelled_patient_needs_its_key_frames(folder, old, new, rule, message):
    text = (folder / TABLE).read_text()
    assert old in text
    (folder / TABLE).write_text(text.replace(old, new))
    with pytest.raises(CaseRefused, match=message) as refusal:
        MnmsSource(folder).load("A0A0A0")
    assert refusal.value.rule == rule


def test_a_folder_without_its_table_or_patients_is_an_error(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(ValueError, match="holds 0 files"):
        MnmsSource(empty)
    (empty / TABLE).write_text(HEAD)
    with pytest.raises(ValueError, match="no patients found"):
        MnmsSource(empty)


def test_the_hash_follows_files_and_table(folder):
    before = MnmsSource(folder).source_hash("A0A0A0")
    (folder / TABLE).write_text((folder / TABLE).read_text().replace("HCM", "DCM"))
    assert MnmsSource(folder).source_hash("A0A0A0") != before


def test_a_table_in_another_encoding_is_named_and_one_in_utf_16_is_read(folder):
    text = (folder / TABLE).read_text()
    (folder / TABLE).write_bytes(text.encode("utf-16"))
    assert MnmsSource(folder).group("A0A0A0") == "HCM"
    (folder / TABLE).write_bytes(text.replace("Siemens", "Müller").encode("latin-1"))
    with pytest.raises(ValueError, match=r"opendataset\.csv: not text in UTF-8"):
        MnmsSource(folder)
