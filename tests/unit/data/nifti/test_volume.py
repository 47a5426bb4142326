import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.case import CaseRefused
from data.nifti.volume import find_nifti, read_masks, read_nifti, without_fraction


def write(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values, np.diag([1.5, 1.25, 8.0, 1.0])), path)
    return path


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0.0, -32768.0]), np.int16),
        (np.array([0.0, 32768.0]), np.int32),
        (np.array([0.0, 2.0**31]), np.float32),
        (np.array([0.0, 0.25]), np.float32),
        (np.array([0, 5], np.uint16), np.uint16),
    ],
)
def test_floats_become_the_smallest_integers_that_lose_nothing(values, dtype):
    result = without_fraction(values)
    assert result.dtype == dtype and (result == values).all()


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_reading_floats_holds_one_copy_beside_the_result(tmp_path, fraction):
    values = np.random.default_rng(0).integers(0, 999, (64, 64, 6, 20)) + fraction
    path = write(tmp_path / "a.nii.gz", values.astype(np.float64))
    tracemalloc.start()
    volume = read_nifti(path, 4, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes + volume.stored.nbytes + 0.25 * values.nbytes


def test_a_trailing_axis_of_length_one_is_dropped(tmp_path):
    path = write(tmp_path / "a.nii.gz", np.ones((4, 5, 2, 3, 1), np.int16))
    assert read_nifti(path, 4, "a").stored.shape == (4, 5, 2, 3)


def test_big_endian_files_are_read_in_native_order(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)).header.as_byteswapped(">")
    nib.save(nib.Nifti1Image(np.arange(24, dtype=">i2").reshape(2, 3, 4), np.eye(4), image), tmp_path / "a.nii")
    stored = read_nifti(tmp_path / "a.nii", 3, "a").stored
    assert stored.dtype.isnative and stored[1, 2, 3] == 23


def masks_of(path: Path, order: tuple[int, ...] = (0, 1, 2, 3)) -> dict[int, np.ndarray]:
    return read_masks(path, "a", read_nifti(path, 4, "a"), order)


def test_only_phases_that_hold_a_label_are_labelled_phases(tmp_path):
    labels = np.zeros((4, 5, 2, 3), np.float32)
    labels[1, 1, 0, 2] = 2
    masks = masks_of(write(tmp_path / "a.nii.gz", labels))
    assert list(masks) == [2] and masks[2].dtype == np.uint8 and masks[2].sum() == 2


def test_the_files_own_order_of_labels_is_translated(tmp_path):
    labels = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1)
    masks = masks_of(write(tmp_path / "a.nii.gz", labels), order=(0, 3, 2, 1))
    assert masks[0].ravel().tolist() == [0, 3, 2, 1]


def test_whether_a_file_is_compressed_follows_from_its_bytes(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    compressed, plain = write(tmp_path / "a.nii.gz", values), write(tmp_path / "b.nii", values)
    swapped = [compressed.rename(tmp_path / "c.nii"), plain.rename(tmp_path / "d.nii.gz")]
    assert all(np.array_equal(read_nifti(path, 3, "a").stored, values) for path in swapped)


def test_nifti_2_is_read(tmp_path):
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti2Image(values, np.diag([1.5, 1.25, 8.0, 1.0])), tmp_path / "a.nii.gz")
    volume = read_nifti(tmp_path / "a.nii.gz", 3, "a")
    assert np.array_equal(volume.stored, values) and volume.grid.spacing_mm == (1.5, 1.25, 8.0)


def test_a_dead_link_is_no_missing_mask(tmp_path):
    (tmp_path / "a_gt.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    path = find_nifti(tmp_path, "a_gt")
    assert path is not None
    with pytest.raises(CaseRefused, match=r"a_gt.nii.gz is a broken link"):
        read_nifti(path, 3, "a")
