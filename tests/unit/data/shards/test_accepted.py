"""What conversion accepts, evaluation can pack and score."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.bitstream import container
from data.bitstream.header import header_for
from data.scoring import images
from data.shards.samples import serialize
from data.sources.nifti import NiftiSource
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
