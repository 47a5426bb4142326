"""What a model sees of a cine follows from its real values, however a file stores them."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.bitstream.container import pack, unpack
from data.bitstream.header import header_for
from data.case import CineCase
from data.cohort.fingerprint import case_record
from data.loading.dataset import on_grid
from data.nifti.volume import without_fraction
from data.preprocess import heart_center, invert, place, plan, prepare
from data.scoring.images import open_reference
from data.shards.reader import ShardReader
from data.sources.nifti import NiftiSource
from data.window import percentiles, window_of
from tests.shards import make_shards
from utils.layout import FrameLayout

SPACING = (1.5, 1.5, 8.0)
SCALES = [
    (np.int16, 4.0, 0.0), (np.int16, 0.5, 0.0), (np.int16, 1.0, 1000.0), (np.int16, 2.0, 600.0),
    (np.uint16, 4.0, -200.0), (np.int32, 0.25, -7.0), (np.float32, 8.0, 4.0),
]  # fmt: skip


def beating(phases: int = 6) -> np.ndarray:
    """Real values (64, 72, 2, T), multiples of 4 from 0: a disk that beats around (40, 24)."""
    rng = np.random.default_rng(0)
    rows, cols = np.ogrid[:64, :72]
    radius = 10 + 4 * np.cos(2 * np.pi * np.arange(phases) / phases)
    disk = ((rows - 40) ** 2 + (cols - 24) ** 2)[:, :, None, None] < radius**2
    return 4 * (rng.integers(0, 25, (64, 72, 2, phases)) + 100 * disk)


def make_case(cine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> CineCase:
    ends = (0, 3) if cine.shape[3] > 3 else (None, None)
    return CineCase("p", cine, {}, SPACING, np.diag([*SPACING, 1.0]), *ends, None, None, None, slope, intercept, "")


def stored(real: np.ndarray, dtype: type, slope: float, intercept: float) -> CineCase:
    values = (real - intercept) / slope
    case = make_case(values.astype(dtype), slope, intercept)
    assert np.array_equal(case.cine, values)
    return case


@pytest.mark.parametrize("mode", ["crop", "fit"])
@pytest.mark.parametrize(("dtype", "slope", "intercept"), SCALES)
def test_how_a_cine_is_stored_changes_nothing_that_a_model_sees(dtype, slope, intercept, mode):
    plain, scaled = make_case(beating().astype(np.int16)), stored(beating(), dtype, slope, intercept)
    expected, found = prepare(plain, 32, mode), prepare(scaled, 32, mode)
    assert found.window == expected.window and found.geometry == expected.geometry
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(open_reference(scaled, 32, mode).original, open_reference(plain, 32, mode).original)
    assert place(scaled) == place(plain)


def test_a_fractional_scale_changes_nothing_either(tmp_path: Path):
    image = nib.Nifti1Image((beating() - 300).astype(np.int16), np.diag([*SPACING, 1.0]))
    image.header.set_slope_inter(0.0371, 12.5)
    nib.save(image, tmp_path / "scaled.nii.gz")
    scaled = NiftiSource(tmp_path).load("scaled")
    plain = make_case(without_fraction(nib.load(tmp_path / "scaled.nii.gz").get_fdata()))
    assert scaled.cine.dtype == np.int16 and plain.cine.dtype == np.float32
    expected, found = prepare(plain, 32, "crop"), prepare(scaled, 32, "crop")
    assert found.window == expected.window and found.geometry == expected.geometry
    assert np.array_equal(found.image, expected.image)


@pytest.mark.parametrize(("dtype", "slope", "intercept"), SCALES)
def test_shards_keep_stored_values_and_give_the_same_samples(tmp_path: Path, dtype, slope, intercept):
    plain, scaled = make_case(beating().astype(np.int16)), stored(beating(), dtype, slope, intercept)
    samples = []
    for case in (plain, scaled):
        reader = ShardReader(make_shards(tmp_path / str(len(samples)), [case]), "train")
        times = np.arange(6)
        samples.append(on_grid([reader.read(i, times) for i in range(2)], times, plan((64, 72), 32, "crop")))
        assert np.array_equal(reader.read_case("p").cine, case.cine)
        assert reader.read_case("p").cine.dtype == case.cine.dtype
    assert all(np.array_equal(samples[0][name], samples[1][name], equal_nan=True) for name in samples[0])


def test_a_record_of_a_scaled_case_is_that_of_the_plain_one():
    plain, scaled = case_record(make_case(beating().astype(np.int16))), case_record(stored(beating(), *SCALES[3]))
    differing = {key for key in plain if plain[key] != scaled[key]}
    assert differing == {"bits"}  # of the stored values


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (2.0, -400.0), (0.5, 100.0)])
def test_the_way_back_ends_at_the_stored_values(slope, intercept):
    case = stored(np.minimum(beating(), 400), np.int16, slope, intercept)
    prepared = prepare(case, 72, "crop")
    tokens = np.zeros((2, 2 + 6), np.int64)
    _, header = unpack(pack(tokens, header_for(case, prepared, FrameLayout(1, 2))))
    native = invert(prepared.image[0].transpose(2, 3, 0, 1), header.geometry).transpose(2, 3, 0, 1)
    low, high = header.window
    found = (low + (high - low) * native - header.intercept) / header.slope
    np.testing.assert_allclose(found, case.cine, atol=1e-3)


@pytest.mark.parametrize("shift", [-2000, -397, -60])
def test_a_volume_shifted_below_0_keeps_its_heart_and_shows_the_same_picture(shift):
    plain = make_case(beating())
    for shifted in (make_case(beating(), 1.0, shift), make_case(beating() + shift)):
        assert place(shifted).center == pytest.approx(place(plain).center, abs=0.5)
        low, high = place(shifted).window
        assert (low, high) == tuple(np.percentile(beating(), [0.5, 99.5]) + shift)
        difference = np.abs(prepare(shifted, 32, "crop").image - prepare(plain, 32, "crop").image)
        assert difference.max() < 0.02


def test_a_little_ringing_below_0_leaves_the_window_at_0():
    cine = beating() - 12  # 3 % of the span
    assert window_of(cine) == (0.0, np.percentile(cine, 99.5))
    cine = beating()
    cine[:4, 0] = -5000  # a few voxels, however far below
    assert window_of(cine)[0] == 0.0 and heart_center(cine) == pytest.approx((40, 24), abs=1)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32])
def test_percentiles_are_those_of_numpy_to_the_bit(dtype):
    for seed in range(20):
        values = np.random.default_rng(seed).integers(0, 120, (7, 5, 3, seed + 1)).astype(dtype)
        wanted = [0.0, 0.5, 37.0, 50.0, 99.5, 100.0]
        assert percentiles(values, wanted) == np.percentile(values, wanted).tolist()


def test_a_window_too_narrow_for_float32_is_empty():
    with pytest.raises(ValueError, match="percentile"):
        window_of(np.array([1e9, 1e9 + 1]).reshape(1, 1, 1, 2) - 2e9)


def test_the_scale_of_a_case_is_part_of_what_is_compared():
    case = make_case(beating())
    doubled = dataclasses.replace(case, slope=2.0)
    assert place(doubled).window[1] == 2 * place(case).window[1]
