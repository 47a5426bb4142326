"""What every file of data/sources promises the converter."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from data.shards.samples import serialize
from utils.config.registry import build, names

SECRET = "Jane Doe"


def save(path: Path, values: np.ndarray) -> None:
    """Write a file whose header tells a name wherever a header has room for one."""
    image = nib.Nifti1Image(values, np.diag([1.5, 1.25, 8.0, 1.0]))
    for field in ("descrip", "aux_file", "db_name", "intent_name"):
        image.header[field] = SECRET
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def beating(label: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A cine (16, 18, 2, 4) of a disk that is smallest at phase 2, and its labels at phases 0 and 2."""
    rows, cols = np.ogrid[:16, :18]
    disk = ((rows - 8) ** 2 + (cols - 9) ** 2)[:, :, None, None] < np.array([36, 16, 9, 16])
    disk = np.broadcast_to(disk, (16, 18, 2, 4))
    labels = (label * disk).astype(np.uint8)
    labels[..., [1, 3]] = 0
    return (np.random.default_rng(0).integers(0, 20, disk.shape) + 200 * disk).astype(np.int16), labels


def make_acdc(folder: Path) -> dict[str, Any]:
    cine, labels = beating()
    patient = folder / "testing" / "patient001"
    save(patient / "patient001_4d.nii.gz", cine)
    for phase in (0, 2):
        save(patient / f"patient001_frame{phase + 1:02d}_gt.nii.gz", np.ascontiguousarray(labels[..., phase]))
    (patient / "Info.cfg").write_text("ED: 1\nES: 3\nGroup: NOR\n")
    return {"input_dir": str(folder)}


def make_nifti(folder: Path) -> dict[str, Any]:
    cine, labels = beating()
    save(folder / "one.nii.gz", cine)
    save(folder / "one_gt.nii.gz", labels)
    (folder / "cases.csv").write_text("patient,ed,es,group\none,0,2,NOR\n")
    return {"input_dir": str(folder)}


def make_mnms(folder: Path) -> dict[str, Any]:
    cine, labels = beating(label=1)
    save(folder / "Testing" / "A1B2C3" / "A1B2C3_sa.nii.gz", cine)
    save(folder / "Testing" / "A1B2C3" / "A1B2C3_sa_gt.nii.gz", labels)
    table = folder / "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
    table.write_text(",External code,ED,ES,Pathology\n0,A1B2C3,0,2,NOR\n")
    return {"input_dir": str(folder)}


def make_phantom(folder: Path) -> dict[str, Any]:
    return {"patients": 1, "size": 40, "spacing_mm": 5.0, "slices": 2, "phases": 4}


MADE: dict[str, Callable[[Path], dict[str, Any]]] = {
    "acdc": make_acdc, "mnms": make_mnms, "nifti": make_nifti, "phantom": make_phantom,
}  # fmt: skip


@pytest.fixture(params=names("data.sources"))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return build("data.sources", request.param, MADE[request.param](tmp_path), "source")


def test_a_source_tells_its_name_and_its_patients_and_loads_them(source):
    assert source.name in MADE and source.modality == "4d_mri"
    (patient,) = source.patients()
    case = source.load(patient)
    assert (case.patient, case.group) == (patient, source.group(patient)) == (patient, "NOR")
    assert case.cine.ndim == 4 and case.ed is not None and case.es is not None and case.ed != case.es
    assert source.held_out(patient) is (source.name in ("acdc", "mnms"))
    assert serialize(case, source.modality)


def test_the_blood_of_the_left_ventricle_is_label_3_and_shrinks_to_es(source):
    case = source.load(source.patients()[0])
    areas = {phase: int((mask == 3).sum()) for phase, mask in case.masks.items()}
    assert sorted(areas) == sorted((case.ed, case.es)) and areas[case.ed] > areas[case.es] > 0


def test_the_hash_needs_no_load_and_is_the_case_s(source):
    (patient,) = source.patients()
    assert source.source_hash(patient) == source.load(patient).source_hash


def test_a_source_can_be_sent_to_another_process(source):
    sent = pickle.loads(pickle.dumps(source))
    (patient,) = sent.patients()
    assert np.array_equal(sent.load(patient).cine, source.load(patient).cine)


def test_every_file_of_a_valid_folder_is_read(source):
    assert source.unread_files() == {}


def test_no_text_of_a_header_reaches_a_case(source):
    case = source.load(source.patients()[0])
    assert SECRET.encode() not in pickle.dumps(case)
