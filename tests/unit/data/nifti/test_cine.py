"""A cine goes from NIfTI to the model's grid and back to NIfTI on the same grid."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import CaseRefused
from data.nifti.cine import read_cine, write_cine
from data.preprocess import native_field, prepare

AFFINE = np.array([[-1.5, 0, 0, 20.0], [0, -1.25, 0, 30.0], [0, 0, 8.0, -5.0], [0, 0, 0, 1.0]])


def save(path: Path, dtype: type = np.int16, slope: float = 1.0, intercept: float = 0.0) -> Path:
    """A bright square on noise, (20, 24, 2, 3), with text in its header."""
    values = np.random.default_rng(0).integers(0, 60, (20, 24, 2, 3))
    values[5:15, 8:18] += 40
    image = nib.Nifti1Image(values.astype(dtype), AFFINE)
    image.header.set_slope_inter(slope, intercept)
    image.header["descrip"] = b"Jane Doe"
    nib.save(image, path)
    return path


@pytest.mark.parametrize("mode", ["crop", "fit"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 3.0)])
def test_a_perfect_decode_gives_the_source_back_below_the_top_of_the_window(
    tmp_path: Path, mode: str, slope: float, intercept: float
) -> None:
    case = read_cine(save(tmp_path / "a.nii.gz", slope=slope, intercept=intercept))
    prepared = prepare(case, 32, mode)
    write_cine(tmp_path / "b.nii.gz", prepared.image, case, prepared)
    result = read_cine(tmp_path / "b.nii.gz")
    top = np.rint((prepared.window[1] - intercept) / slope)
    assert result.cine.dtype == case.cine.dtype == np.int16
    assert np.array_equal(result.cine, np.minimum(case.cine, top))
    assert (result.slope, result.intercept) == (slope, intercept)


def test_the_result_lies_where_its_source_lies(tmp_path: Path) -> None:
    case = read_cine(save(tmp_path / "a.nii.gz"))
    prepared = prepare(case, 16, "crop")
    write_cine(tmp_path / "b.nii", prepared.image, case, prepared)
    written = nib.load(tmp_path / "b.nii")
    assert written.shape == case.cine.shape
    assert np.allclose(written.affine, AFFINE)
    assert np.allclose(written.header.get_zooms()[:3], case.spacing_mm)
    assert (written.get_fdata()[~native_field(prepared.geometry)] == 0).all()


def test_no_text_of_the_sources_header_is_copied(tmp_path: Path) -> None:
    case = read_cine(save(tmp_path / "a.nii"))
    prepared = prepare(case, 32, "crop")
    write_cine(tmp_path / "b.nii", prepared.image, case, prepared)
    assert b"Jane" in (tmp_path / "a.nii").read_bytes() and b"Jane" not in (tmp_path / "b.nii").read_bytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_decoded_values_beyond_the_range_of_the_data_type_do_not_wrap_around(tmp_path: Path, dtype: type) -> None:
    case = read_cine(save(tmp_path / "a.nii", dtype))
    prepared = prepare(case, 32, "crop")
    write_cine(tmp_path / "b.nii", np.full_like(prepared.image, 10.0), case, prepared)
    result = read_cine(tmp_path / "b.nii").cine
    assert result.min() >= min(255, prepared.window[1])


def test_the_patient_is_called_after_the_file(tmp_path: Path) -> None:
    assert read_cine(save(tmp_path / "a b.nii.gz")).patient == "a_b"


def test_what_cannot_be_read_or_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseRefused, match="missing"):
        read_cine(tmp_path / "a.nii.gz")
    case = read_cine(save(tmp_path / "a.nii.gz"))
    prepared = prepare(case, 32, "crop")
    with pytest.raises(ValueError, match="file ending"):
        write_cine(tmp_path / "b.png", prepared.image, case, prepared)
    with pytest.raises(ValueError, match="expected \\(1, 32, 32, 2, 3\\)"):
        write_cine(tmp_path / "b.nii", prepared.image[0], case, prepared)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
