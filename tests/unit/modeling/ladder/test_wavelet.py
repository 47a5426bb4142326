"""The wavelet can be inverted at every size, keeps the number of samples, and almost their energy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modeling.ladder import wavelet
from utils.ladder.pyramid import MAX_LEVELS, SMALLEST, band_ids, band_shapes, from_flat, levels_for, parent, to_flat

SIDES = (1, 2, 3, 7, 8, 9, 16, 31, 37, 64)
SIZES = [(height, width) for height in SIDES for width in SIDES]


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_image_of_any_size_comes_back(height: int, width: int) -> None:
    x = image(height, width)
    assert (wavelet.inverse(wavelet.forward(x)) - x).abs().max() < 1e-12
    single = wavelet.inverse(wavelet.forward(x.float()))
    assert single.dtype == torch.float32 and (single - x).abs().max() < 2e-5


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_there_are_as_many_coefficients_as_pixels_in_the_stated_bands(height: int, width: int) -> None:
    pyramid, shapes = wavelet.forward(image(height, width)), band_shapes(height, width)
    assert [[tuple(band.shape) for band in level] for level in pyramid] == [
        [(2, 3, *shape) for shape in level] for level in shapes
    ]
    assert sum(h * w for level in shapes for h, w in level) == height * width
    assert len(band_ids(len(shapes) - 1)) == sum(map(len, shapes)) == 1 + 3 * levels_for(height, width)


@pytest.mark.parametrize(("blur", "tolerance"), [(1, 0.11), (3, 0.03), (5, 0.03), (9, 0.05)])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (160, 160)])
def test_an_image_and_its_pyramid_have_almost_the_same_energy(
    height: int, width: int, blur: int, tolerance: float
) -> None:
    """White noise gains up to a tenth, since the wavelet is not quite orthogonal; images are smoother."""
    noise = torch.randn(40, 1, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = F.pad(F.avg_pool2d(noise, blur, 1), (0, blur - 1, 0, blur - 1), "reflect")
    energy = sum(float(band.square().sum()) for level in wavelet.forward(x) for band in level)
    assert energy == pytest.approx(float(x.square().sum()), rel=tolerance)


@pytest.mark.parametrize(("height", "width", "least"), [(64, 80, 0.96), (37, 53, 0.9), (101, 33, 0.9), (9, 8, 0.8)])
def test_an_error_of_the_coefficients_is_an_error_of_almost_the_same_size_in_the_pixels(
    height: int, width: int, least: float
) -> None:
    """At odd sizes the functions of the last samples are cut off by the border, so errors shrink a little."""
    random, zeros = torch.Generator().manual_seed(2), torch.zeros(30, height, width, dtype=torch.float64)
    noise = [[torch.randn(band.shape, generator=random) for band in level] for level in wavelet.forward(zeros)]
    assert least < float(wavelet.inverse(noise).std()) < 1.04


@pytest.mark.parametrize(("height", "width"), [(24, 40), (37, 53)])
def test_each_coefficient_alone_makes_an_image_of_about_its_size(height: int, width: int) -> None:
    for level, shapes in enumerate(band_shapes(height, width)):
        for orientation, (rows, columns) in enumerate(shapes):
            pyramid = wavelet.forward(torch.zeros(height, width, dtype=torch.float64))
            pyramid[level][orientation][rows // 2, columns // 2] = 1
            assert 0.6 < float(wavelet.inverse(pyramid).norm()) < 1.6


def test_an_even_image_has_no_detail() -> None:
    low, *levels = wavelet.forward(torch.full((1, 37, 53), 0.7, dtype=torch.float64))
    assert max(float(band.abs().max()) for level in levels for band in level) < 1e-12
    assert float(low[0].std()) < 1e-12 and float(low[0].mean()) > 0.7


def test_the_number_of_levels_leaves_a_low_pass_band_of_four_samples_or_more() -> None:
    for side in range(1, 400):
        levels = levels_for(side, 400)
        assert 0 <= levels <= MAX_LEVELS
        low = min(band_shapes(side, 400)[0][0])
        assert low == side if levels == 0 else low >= SMALLEST
        assert levels == levels_for(400, side)
    assert levels_for(2 * SMALLEST - 1, 400) == 0 and levels_for(2 * SMALLEST, 400) == 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 9), (37, 53)])
def test_bands_become_one_row_and_bands_again(height: int, width: int) -> None:
    flat = np.arange(2 * height * width).reshape(2, -1)
    bands = from_flat(flat, height, width)
    assert [band.shape[1:] for band in bands] == [shape for level in band_shapes(height, width) for shape in level]
    np.testing.assert_array_equal(to_flat(bands), flat)


def test_the_parent_of_a_band_is_the_coarser_one_of_its_orientation() -> None:
    for band in band_ids(3):
        above = parent(band)
        if band.level == 0:
            assert above is None
        else:
            assert above == (band.level - 1, band.orientation if band.level > 1 else 0)
