"""Files that must share a grid are compared by what their headers say."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from data.case import CaseRefused
from data.nifti.volume import read_nifti
from data.sources.acdc import AcdcSource
from data.sources.nifti import NiftiSource

SHAPE = (12, 10, 3, 4)
OBLIQUE = np.array([[-1.4, 0.3, 0.8, 20], [0.4, 1.3, -2.0, -7], [-0.35, 0.6, 7.7, 3], [0, 0, 0, 1.0]])


def save(path: Path, values: np.ndarray, affine: np.ndarray, unit: str | None = "mm") -> None:
    image = nib.Nifti1Image(values, affine)
    if unit:
        image.header.set_xyzt_units(xyz=unit)
    nib.save(image, path)


@pytest.fixture
def labels(tmp_path: Path) -> np.ndarray:
    """Labels (12, 10, 3, 4) of the cine `one.nii.gz`, which lies obliquely; no flip of them is the same."""
    rng = np.random.default_rng(0)
    save(tmp_path / "one.nii.gz", rng.integers(0, 300, SHAPE).astype(np.int16), OBLIQUE)
    labels = rng.integers(0, 4, SHAPE).astype(np.uint8)
    return labels


def turned(values: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with other axes, and its affine."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    return nib.orientations.apply_orientation(values, turn), affine @ inv_ornt_aff(turn, values.shape[:3])


@pytest.mark.parametrize("codes", ["LPS", "RAS", "SPL", "ASR", "PIR"])
def test_labels_with_other_axes_are_turned_onto_their_image(tmp_path: Path, labels: np.ndarray, codes: str):
    other, affine = turned(labels, OBLIQUE, codes)
    save(tmp_path / "one_gt.nii.gz", other, affine)
    masks = NiftiSource(tmp_path).load("one").masks
    assert all(np.array_equal(masks[phase], labels[..., phase]) for phase in range(4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.diag([1.0, 1.0, 1.1, 1.0]), "spacing .* expected"),
        (np.array([[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "corners are up to 1 voxels apart"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "up to 0.5 voxels apart"),
        (np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1.0]]), "up to 2 voxels apart"),
        (np.array([[0.996, -0.087, 0, 0], [0.087, 0.996, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "voxel edges differ"),
    ],
    ids=["zooms", "a voxel aside", "half a voxel aside", "flipped about the origin", "turned by 5 degrees"],
)
def test_labels_that_lie_elsewhere_are_refused(tmp_path: Path, labels: np.ndarray, change: np.ndarray, message: str):
    save(tmp_path / "one_gt.nii.gz", labels, OBLIQUE @ change)
    with pytest.raises(CaseRefused, match=rf"one_gt.nii.gz has another grid than one.nii.gz: .*{message}") as refusal:
        NiftiSource(tmp_path).load("one")
    assert refusal.value.rule == "other_grid"


def test_a_rounding_of_the_header_is_no_other_grid(tmp_path: Path, labels: np.ndarray):
    save(tmp_path / "one_gt.nii.gz", labels, OBLIQUE.round(2) + np.diag([1e-3, -1e-3, 2e-3, 0]))
    assert np.array_equal(NiftiSource(tmp_path).load("one").masks[0], labels[..., 0])


@pytest.mark.parametrize(("edge", "is_refused"), [(1.505, False), (1.6, True)])
def test_a_header_that_places_nothing_is_compared_by_its_zooms(tmp_path: Path, edge: float, is_refused: bool):
    save(tmp_path / "one.nii.gz", np.arange(1440, dtype=np.int16).reshape(SHAPE), np.diag([1.5, 1.5, 8.0, 1.0]))
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.uint8)
    header.set_zooms((edge, 1.5, 8.0, 1.0))
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.uint8), None, header), tmp_path / "one_gt.nii.gz")
    if is_refused:
        with pytest.raises(CaseRefused, match=r"its spacing is 1.6 x 1.5 x 8 mm, expected 1.5 x 1.5 x 8 mm"):
            NiftiSource(tmp_path).load("one")
    else:
        assert len(NiftiSource(tmp_path).load("one").masks) == 4


def test_the_es_frame_is_turned_onto_the_ed_frame(tmp_path: Path, acdc_patient):
    patient = acdc_patient(tmp_path / "patient001")
    expected = AcdcSource(tmp_path, "ed_es").load("patient001")
    for path in patient.glob("*frame04*"):
        image = nib.load(path)
        values, affine = turned(np.asarray(image.dataobj), np.diag([-1.5, -1.25, 8.0, 1.0]), "PSR")
        nib.save(nib.Nifti1Image(values, affine), path)
    found = AcdcSource(tmp_path, "ed_es").load("patient001")
    assert np.array_equal(found.cine, expected.cine) and np.array_equal(found.masks[1], expected.masks[1])


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1.0), ("meter", 1000.0), ("micron", 0.001), (None, 1.0)])
def test_lengths_are_converted_to_mm(tmp_path: Path, unit: str | None, mm: float):
    save(tmp_path / "a.nii.gz", np.ones(SHAPE, np.int16), np.diag([1 / mm, 1 / mm, 1 / mm, 1]) @ OBLIQUE, unit)
    grid = read_nifti(tmp_path / "a.nii.gz", 4, "a").grid
    assert grid.spacing_mm == pytest.approx(np.linalg.norm(OBLIQUE[:3, :3], axis=0), rel=1e-5)
    assert np.allclose(grid.affine, OBLIQUE, rtol=1e-5)


def test_labels_in_metres_fit_an_image_in_mm(tmp_path: Path, labels: np.ndarray):
    save(tmp_path / "one_gt.nii.gz", labels, np.diag([1e-3, 1e-3, 1e-3, 1]) @ OBLIQUE, "meter")
    assert np.array_equal(NiftiSource(tmp_path).load("one").masks[3], labels[..., 3])


@pytest.mark.parametrize("length", [1 + 1e-6, 1 + 4e-4])
def test_a_quaternion_a_rounding_too_long_is_read(tmp_path: Path, length: float):
    values = np.arange(1440, dtype=np.int16).reshape(SHAPE)
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_zooms((1.5, 1.25, 8.0, 1.0))
    header["qform_code"], header["quatern_b"], header["quatern_c"] = 1, 0.6 * length, 0.8 * length
    nib.save(nib.Nifti1Image(values, None, header), tmp_path / "a.nii.gz")
    volume = read_nifti(tmp_path / "a.nii.gz", 4, "a")
    assert np.array_equal(volume.stored, values) and volume.grid.is_placed
    assert volume.grid.affine[:3, :3] == pytest.approx(
        np.array([[-0.28, 0.96, 0], [0.96, 0.28, 0], [0, 0, -1]]) @ np.diag([1.5, 1.25, 8.0]), abs=0.01
    )


def test_a_quaternion_that_is_none_places_nothing(tmp_path: Path):
    header = nib.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_zooms((1.5, 1.25, 8.0, 1.0))
    header["qform_code"], header["quatern_b"] = 1, 7.0
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.int16), None, header), tmp_path / "a.nii.gz")
    grid = read_nifti(tmp_path / "a.nii.gz", 4, "a").grid
    assert np.array_equal(grid.affine, np.diag([1.5, 1.25, 8.0, 1.0])) and not grid.is_placed


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e38])
@pytest.mark.filterwarnings("error")
def test_an_affine_that_is_not_finite_places_nothing_and_warns_of_nothing(tmp_path: Path, value: float):
    save(tmp_path / "one.nii", np.arange(12 * 10 * 3 * 4, dtype=np.int16).reshape(SHAPE), OBLIQUE)
    data = bytearray((tmp_path / "one.nii").read_bytes())
    for offset in (280, 284, 256, 268):  # two entries of the sform, one of the quaternion, one of the offset
        data[offset : offset + 4] = np.float32(value).tobytes()
    data[112:116] = np.float32(1e38).tobytes()  # the slope
    (tmp_path / "one.nii").write_bytes(data)
    volume = read_nifti(tmp_path / "one.nii", 4, "one")
    assert np.isfinite(volume.grid.affine).all()
    assert np.allclose(np.linalg.norm(volume.grid.affine[:3, :3], axis=0), volume.grid.spacing_mm, rtol=0.01)
    with pytest.raises(CaseRefused):
        NiftiSource(tmp_path).load("one")
