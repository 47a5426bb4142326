"""A region of finer steps: what it may be, and that it is finer inside alone."""

import pytest
import torch

from modeling.ladder.ladder import weighted
from modeling.ladder.region import LARGEST, PER_OCTAVE, Region, band_weights, region_of
from modeling.ladder.wavelet import forward
from tests.ladders import as_input, smooth_cine, trained_ladder
from utils.ladder.pyramid import band_shapes
from utils.ladder.symbols import LADDER_REGION

DISC = Region(row=18, column=30, radius=9, gain=2 * PER_OCTAVE)
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", Region._fields)
@pytest.mark.parametrize("value", [-1, LARGEST + 1])
def test_numbers_that_cannot_be_transmitted_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value}.*expected whole numbers from 0 to {LARGEST}"):
        DISC._replace(**{name: value}).check()


def test_the_largest_region_can_be_transmitted_and_a_larger_gain_cannot() -> None:
    largest = Region(LARGEST, LARGEST, LARGEST, 8 * PER_OCTAVE)
    largest.check()
    assert LARGEST == LADDER_REGION - 1
    with pytest.raises(ValueError, match="gain"):
        largest._replace(gain=8 * PER_OCTAVE + 1).check()


def test_a_region_is_the_nearest_that_can_be_transmitted() -> None:
    assert region_of((18.2, 29.6), 9.4, 4.0) == DISC
    assert region_of((-5.0, -0.1), 0.2, 1.0) == Region(0, 0, 1, 0)
    for weight in (0.5, 300.0, float("nan")):
        with pytest.raises(ValueError, match="expected 1 to 256"):
            region_of((1.0, 1.0), 5.0, weight)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 9), (37, 53)])
def test_each_coefficient_has_a_factor_of_1_or_of_the_gain(height: int, width: int) -> None:
    weights = band_weights(DISC, height, width, CPU)
    assert [[tuple(band.shape) for band in level] for level in weights] == band_shapes(height, width)
    assert {float(value) for level in weights for band in level for value in band.unique()} <= {1.0, 4.0}


def test_the_factors_stand_where_the_disc_lies_at_every_level() -> None:
    for level in band_weights(DISC, 37, 53, CPU):
        for band in level:
            rows, columns = (band == 4).nonzero().unbind(1)
            scale = 37 / band.shape[0], 53 / band.shape[1]
            assert abs((float(rows.float().mean()) + 0.5) * scale[0] - 18.5) < scale[0]
            assert abs((float(columns.float().mean()) + 0.5) * scale[1] - 30.5) < scale[1]
            assert 0.5 < len(rows) * scale[0] * scale[1] / (3.1416 * 9**2) < 1.5


def test_factors_are_undone_by_their_inverse() -> None:
    pyramid = forward(torch.rand(1, 2, 37, 53))
    there = weighted(pyramid, DISC)
    back = weighted(there, DISC, -1)
    for level, same, changed in zip(pyramid, back, there, strict=True):
        for band, again, other in zip(level, same, changed, strict=True):
            assert torch.equal(again, band) and not torch.equal(other, band)  # the factor is a power of two
    assert weighted(pyramid, None) is pyramid


def test_pixels_inside_are_nearer_to_the_original_and_the_others_are_not() -> None:
    model, cine = trained_ladder(), smooth_cine(2, 5, 37, 53, seed=9)
    rows, columns = torch.arange(37)[:, None], torch.arange(53)
    distance = ((rows - DISC.row).square() + (columns - DISC.column).square()).sqrt()
    errors = {}
    for name, region in (("even", None), ("finer", DISC)):
        decoded = model.decode_tokens(model.encode(as_input(cine), step=0.3, region=region))
        square = (decoded - as_input(cine)).square().mean((0, 1, 4, 5))
        errors[name] = float(square[distance < 6].mean()), float(square[distance > 16].mean())
    assert errors["finer"][0] < 0.5 * errors["even"][0]
    assert errors["finer"][1] == pytest.approx(errors["even"][1], rel=0.15)


def test_a_region_without_gain_changes_no_pixel() -> None:
    model, x = trained_ladder(), as_input(smooth_cine())
    decoded = [model.decode_tokens(model.encode(x, step=0.1, region=r)) for r in (None, DISC._replace(gain=0))]
    assert torch.equal(*decoded)


def test_the_tokens_hold_the_region() -> None:
    model, x = trained_ladder(), as_input(smooth_cine())
    assert model.encode(x, step=0.1, region=DISC)[0, :, 5:9].tolist() == [list(DISC)] * 2
    assert model.encode(x, step=0.1)[0, :, 5:9].tolist() == [[-1] * 4] * 2
    with pytest.raises(ValueError, match="gain"):
        model.encode(x, step=0.1, region=DISC._replace(gain=99))


@pytest.mark.parametrize("gain", [33, LARGEST])
def test_tokens_of_a_region_that_no_encoder_writes_are_refused(gain: int) -> None:
    model, x = trained_ladder(), as_input(smooth_cine())
    tokens = model.encode(x, step=0.1, region=DISC).clone()
    tokens[:, :, 8] = gain
    with pytest.raises(ValueError, match="gain"):
        model.decode_tokens(tokens)


def test_a_psnr_is_reached_with_a_region_too() -> None:
    model, cine = trained_ladder(), smooth_cine(2, 5, 37, 53, seed=9)
    decoded = model.decode_tokens(model.encode(as_input(cine), psnr=33.0, region=DISC))
    error = (decoded - as_input(cine)).square().mean((2, 3))
    assert 33.0 <= float((-10 * error.log10()).mean()) < 33.8
