import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import CaseRefused
from data.sources.acdc import AcdcSource, Options, build

SCL_SLOPE = 112  # its place in a NIfTI-1 header


@pytest.fixture
def patient(tmp_path: Path, acdc_patient) -> Path:
    return acdc_patient(tmp_path / "patient001")


def load(patient: Path, modality: str = "4d_mri"):
    return AcdcSource(patient.parent, modality).load(patient.name)


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def patch_header(path: Path, offset: int, value: float) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<f", data, offset, value)
    path.write_bytes(gzip.compress(bytes(data)))


def edit_info(patient: Path, old: str, new: str) -> None:
    path = patient / "Info.cfg"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_a_cine_is_read_as_stored_with_zero_based_key_frames(patient):
    case = load(patient)
    assert case.cine.shape == (20, 24, 2, 5) and case.cine.dtype == np.int16
    assert (case.cine == voxels(patient / "patient001_4d.nii.gz")).all()
    assert (case.ed, case.es, sorted(case.masks)) == (1, 3, [1, 3])
    assert (case.masks[3] == voxels(patient / "patient001_frame04_gt.nii.gz")).all()
    assert (case.group, case.height_cm, case.weight_kg) == ("NOR", 170.0, 70.5)


def test_spacing_comes_from_the_zooms_and_the_affine_agrees_with_it(patient):
    case = load(patient)
    assert case.spacing_mm == (1.5, 1.25, 8.0)
    assert np.allclose(np.linalg.norm(case.affine[:3, :3], axis=0), case.spacing_mm)


def test_the_two_frames_become_a_cine_of_ed_and_es(patient):
    case = load(patient, "ed_es")
    assert (case.cine.shape[3], case.ed, case.es, sorted(case.masks)) == (2, 0, 1, [0, 1])
    assert (case.cine[..., 1] == voxels(patient / "patient001_frame04.nii.gz")).all()


def test_uncompressed_files_are_read_too(patient):
    for path in list(patient.glob("*.nii.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load(patient).cine.shape == (20, 24, 2, 5)


def test_a_scaled_file_gives_its_raw_integers_and_the_scale(patient):
    values = np.arange(20 * 24 * 2 * 5, dtype=np.int16).reshape(20, 24, 2, 5)
    image = nib.Nifti1Image(values, np.diag([-1.5, -1.25, 8, 1]))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, patient / "patient001_4d.nii.gz")
    case = load(patient)
    assert (case.slope, case.intercept) == (0.5, 3.0)
    assert case.cine.dtype == np.int16
    assert np.allclose(case.cine * case.slope + case.intercept, nib.load(patient / "patient001_4d.nii.gz").get_fdata())


def test_frames_of_different_scale_meet_in_real_values(patient):
    path = patient / "patient001_frame02.nii.gz"
    image = nib.Nifti1Image(voxels(path), np.diag([-1.5, -1.25, 8, 1]))
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, path)
    expected = np.stack([nib.load(path).get_fdata(), nib.load(patient / "patient001_frame04.nii.gz").get_fdata()], -1)
    case = load(patient, "ed_es")
    assert (case.slope, case.intercept) == (1.0, 0.0)
    assert np.allclose(case.cine, expected)


@pytest.mark.parametrize(("fraction", "dtype"), [(0.0, np.int16), (0.5, np.float32)])
def test_floats_stay_floats_only_where_a_value_is_fractional(patient, nifti, fraction, dtype):
    nifti(patient / "patient001_4d.nii.gz", voxels(patient / "patient001_4d.nii.gz").astype(np.float64) + fraction)
    assert load(patient).cine.dtype == dtype


@pytest.mark.parametrize("folders", ["", "training", "testing", "database/training", "database/testing", "database"])
def test_patients_are_found_wherever_acdc_keeps_them(tmp_path, acdc_patient, folders):
    acdc_patient(tmp_path / folders / "patient007")
    source = build(Options(str(tmp_path)))
    assert source.patients() == ["patient007"]
    assert source.held_out("patient007") == folders.endswith("testing")


def test_a_patient_that_is_there_twice_is_an_error(tmp_path, acdc_patient):
    acdc_patient(tmp_path / "training" / "patient001")
    acdc_patient(tmp_path / "testing" / "patient001")
    with pytest.raises(ValueError, match="patient001 exists twice"):
        AcdcSource(tmp_path)


def test_a_missing_or_empty_input_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        AcdcSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no patients found"):
        AcdcSource(tmp_path)


def test_an_unknown_modality_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="4d_mri, ed_es"):
        AcdcSource(tmp_path, "t1_map")


def test_a_test_case_without_group_is_accepted(tmp_path, acdc_patient):
    patient = acdc_patient(tmp_path / "patient101", group=None)
    assert load(patient).group is None
    assert AcdcSource(tmp_path).group("patient101") is None


def test_a_case_without_masks_is_accepted(patient):
    for path in patient.glob("*_gt.nii.gz"):
        path.unlink()
    assert load(patient).masks == {}


@pytest.mark.parametrize("weight", ["", "Weight: unknown\n", "Weight: nan\n", "Weight: 0\n"])
def test_a_weight_that_is_not_told_is_unknown(patient, weight):
    edit_info(patient, "Weight: 70.5\n", weight)
    assert load(patient).weight_kg is None


def test_info_cfg_is_read_by_key_in_any_order(patient):
    text = "\ufeffWeight: 60\r\nES: 4\r\nGroup: DCM \r\nED: 2\r\n"  # as a Windows editor leaves it
    (patient / "Info.cfg").write_bytes(text.encode())
    case = load(patient)
    assert (case.ed, case.es, case.group, case.height_cm, case.weight_kg) == (1, 3, "DCM", None, 60.0)


def test_ed_may_be_any_frame_even_one_after_es(tmp_path, acdc_patient):
    case = load(acdc_patient(tmp_path / "patient090", ed=5, es=2))
    assert (case.ed, case.es, sorted(case.masks)) == (4, 1, [1, 4])


def test_slices_without_labels_are_kept(patient, nifti):
    path = patient / "patient001_frame02_gt.nii.gz"
    labels = voxels(path).copy()
    labels[..., 0] = 0
    nifti(path, labels)
    case = load(patient)
    assert case.cine.shape[2] == 2 and not case.masks[1][..., 0].any() and case.masks[1][..., 1].any()


def test_where_no_sform_is_set_the_affine_is_the_qform(patient):
    path = patient / "patient001_4d.nii.gz"
    image = nib.Nifti1Image(voxels(path), None)
    turned = np.array([[0, -1.25, 0, 3], [1.5, 0, 0, 4], [0, 0, 8, 5], [0, 0, 0, 1.0]])
    image.header.set_zooms((1.5, 1.25, 8, 1))
    image.header.set_qform(turned, code=1)
    nib.save(image, path)
    for mask in patient.glob("*_gt.nii.gz"):
        mask.unlink()
    case = load(patient)
    assert case.spacing_mm == (1.5, 1.25, 8.0) and np.allclose(case.affine, turned, atol=1e-5)


def test_labels_behind_a_scale_are_read_as_the_whole_numbers_they_mean(patient):
    path = patient / "patient001_frame02_gt.nii.gz"
    labels = voxels(path)
    image = nib.Nifti1Image(labels * 85, np.diag([-1.5, -1.25, 8, 1]))  # 3 is stored as 255
    nib.save(image, path)
    patch_header(path, SCL_SLOPE, 3 / 255)
    assert (load(patient).masks[1] == labels).all()


def test_the_source_hash_follows_the_bytes_of_the_files(patient):
    source = AcdcSource(patient.parent)
    before = source.source_hash("patient001")
    assert before == source.source_hash("patient001") == source.load("patient001").source_hash
    edit_info(patient, "Weight: 70.5", "Weight: 70.6")
    assert source.source_hash("patient001") != before


def test_an_info_file_in_utf_16_is_read_and_one_that_is_no_text_refuses_its_case(tmp_path, acdc_patient):
    info = acdc_patient(tmp_path / "acdc" / "patient001") / "Info.cfg"
    text = info.read_text()
    info.write_bytes(text.encode("utf-16"))
    source = AcdcSource(tmp_path / "acdc")
    assert source.group("patient001") == "NOR" and source.load("patient001").ed == 1
    info.write_bytes(text.encode("utf-16-le"))
    assert source.group("patient001") is None
    with pytest.raises(CaseRefused, match=r"^patient001: Info\.cfg: .*UTF-8") as error:
        source.load("patient001")
    assert error.value.rule == "damaged_file"
