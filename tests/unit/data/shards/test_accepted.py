"""What conversion accepts, evaluation can pack and score."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.bitstream import container
from data.bitstream.header import header_for
from data.case import CaseRefused
from data.scoring import images
from data.shards.reader import ShardReader
from data.shards.samples import serialize
from data.sources.nifti import NiftiSource
from tests.shards import make_shards
from utils.layout import FrameLayout

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [(1.0, 0.0), (0.5, -30.0), (1e-6, 0.0)])
def test_any_type_of_voxels_is_scored(tmp_path: Path, dtype: str, scale: tuple[float, float]):
    values = np.random.default_rng(0).integers(0, 120, (11, 12, 2, 3)).astype(dtype)
    image = nib.Nifti1Image(values, np.diag([1.5, 1.25, 8.0, 1.0]), dtype=dtype)
    image.header.set_slope_inter(*scale)
    nib.save(image, tmp_path / "one.nii")
    case = NiftiSource(tmp_path).load("one")
    members = dict(serialize(case, "4d_mri"))
    assert np.load(io.BytesIO(members["one_z00.cine.npy"])).dtype == case.cine.dtype
    reference = images.open_reference(case, 16, "crop")
    header = header_for(case, reference.prepared, FrameLayout(1, 2))
    data = container.pack(np.zeros((2, 5), np.int64), header)
    _, header = container.unpack(data)
    assert header.window == pytest.approx(reference.prepared.window)
    scores = {**images.score_grid(reference, reference.prepared.image[0] * 0.9)[1], **images.cost(reference, len(data))}
    assert scores["ssim"] > 0 and scores["ratio_int16"] > 0


@pytest.mark.parametrize("spacing", [(1e-5, 1e-5, 1.0), (1e5, 1e5, 1.0), (1.5, 1.5, 8.0)])
@pytest.mark.parametrize(
    "scale", [(1.0, 0.0), (1e-14, 0.0), (1.0, 1e-8), (1e-8, 1e6), (1e35, 0.0), (1e-3, -1e31), (1e-30, 0.0)]
)
def test_a_patient_is_refused_by_the_conversion_or_read_from_its_shards(tmp_path: Path, spacing, scale):
    values = np.random.default_rng(0).integers(0, 120, (11, 12, 2, 3)).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([*spacing, 1.0]))
    image.header.set_slope_inter(*scale)
    nib.save(image, tmp_path / "one.nii")
    try:
        case = NiftiSource(tmp_path).load("one")
        make_shards(tmp_path / "shards", [case])
    except CaseRefused as refusal:
        rule = refusal.rule
    else:
        rule = ""
        read = ShardReader(tmp_path / "shards", "train").read_case("one")
        assert np.array_equal(read.cine, case.cine) and read.spacing_mm == pytest.approx(spacing)
    assert rule in ("", "bad_spacing", "bad_scale", "empty_window")
