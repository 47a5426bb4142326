"""The laws of the cycle loss."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.heart.segmenter import FixedSegmenter, Segmenter
from modeling.losses.cycle import harmonic_power
from modeling.prediction import Prediction
from tests import losses
from utils.config import registry
from utils.types import Batch

PARTS = {"difference": 0.0, "fourier": 0.0, "curve": 0.0}
ALONE = [{**PARTS, name: 1.0} for name in PARTS]


def cine(phases: int = 8, places: list[float] | None = None) -> tuple[Prediction, Batch]:
    """Two slices that beat, and their reconstruction: for now the original itself."""
    torch.manual_seed(0)
    phase = torch.tensor(places or [k / phases for k in range(phases)])
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    radius = 9 + 4 * (2 * math.pi * phase).cos()
    disc = ((row - 15).square() + (column - 16).square()) < radius.square()[:, None, None]  # (T, H, W)
    image = (0.2 + 0.6 * disc)[None, None, :, None].repeat(2, 1, 1, 1, 1, 1)
    image = image + 0.02 * torch.rand(image.shape)
    batch = Batch(
        image=image, mask=torch.zeros(2, 1, len(phase), 32, 32, dtype=torch.uint8),
        has_label=torch.zeros(2, 1, len(phase), dtype=torch.bool), field=torch.ones(2, 1, 32, 32, dtype=torch.bool),
        slice_position=torch.full((2, 1), 0.5), phase=phase.expand(2, -1), key_frames=torch.zeros(2, 2).long(),
        spacing_mm=torch.full((2, 3), 4.0), bsa_m2=torch.ones(2), sample_seed=torch.tensor([1, 2]),
        patient=torch.tensor([1, 2]), key=["a", "b"],
    )  # fmt: skip
    segmenter = Segmenter()
    fixed = FixedSegmenter(segmenter, image[:, :, :1])
    zero = torch.zeros(2)
    return Prediction(image, image, zero, zero == 0, segmenter=fixed), batch


def mean(prediction: Prediction, batch: Batch, **options: Any) -> float:
    return losses.mean("cycle", prediction, batch, **options)


def decoded(prediction: Prediction, x_hat: Tensor) -> Prediction:
    return prediction._replace(reconstruction=x_hat)


@pytest.mark.parametrize("part", ALONE)
def test_it_is_zero_on_identity(part: dict[str, float]) -> None:
    assert mean(*cine(), **part) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("part", ALONE)
def test_it_is_positive_for_shuffled_phases(part: dict[str, float]) -> None:
    prediction, batch = cine()
    shuffled = prediction.image[:, :, torch.tensor([3, 0, 5, 1, 7, 2, 6, 4])]
    assert mean(decoded(prediction, shuffled), batch, **part) > 1e-6


@pytest.mark.parametrize("part", ALONE)
def test_a_cyclic_shift_of_both_changes_nothing(part: dict[str, float]) -> None:
    prediction, batch = cine()
    x_hat = prediction.image + 0.1 * torch.rand(prediction.image.shape)
    expected = mean(decoded(prediction, x_hat), batch, **part)
    for shift in (1, 5):
        moved = prediction._replace(image=prediction.image.roll(shift, 2), reconstruction=x_hat.roll(shift, 2))
        assert mean(moved, batch, **part) == pytest.approx(expected, rel=1e-4)


def test_phases_may_come_unevenly_and_from_anywhere_in_the_cycle() -> None:
    places = [0.05, 0.1, 0.1, 0.35, 0.6, 0.8, 0.85]  # ED stands twice
    prediction, batch = cine(places=places)
    assert mean(prediction, batch) == 0
    x_hat = prediction.image + 0.1 * torch.rand(prediction.image.shape)
    expected = mean(decoded(prediction, x_hat), batch)
    moved = prediction._replace(image=prediction.image.roll(3, 2), reconstruction=x_hat.roll(3, 2))
    rolled = batch._replace(phase=batch.phase.roll(3, 1))
    assert mean(moved, rolled) == pytest.approx(expected, rel=1e-4) and expected > 0


def test_the_wrap_from_the_last_phase_to_the_first_counts_like_any_step() -> None:
    prediction, batch = cine(4)
    x_hat = prediction.image.clone()
    x_hat[:, :, -1] += 0.2  # the steps into the last phase and out of it are wrong
    assert mean(decoded(prediction, x_hat), batch, fourier=0.0) == pytest.approx(2 * 0.2**2 / 4, rel=1e-4)


def test_a_constant_offset_is_no_change_over_the_cycle() -> None:
    prediction, batch = cine()
    assert mean(decoded(prediction, prediction.image + 0.1), batch) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("harmonic", [1, 2, 3])
def test_the_power_of_a_harmonic_is_the_mean_square_of_its_wave(harmonic: int) -> None:
    phase = torch.arange(10).expand(2, -1) / 10
    wave = 0.3 * (2 * math.pi * harmonic * phase + 1).cos()
    power = harmonic_power(wave[:, None, :, None, None, None], phase, torch.full((2, 10), 0.1), harmonics=3)
    assert power.flatten().tolist() == pytest.approx([0.3**2 / 2] * 2, rel=1e-4)
    lower = harmonic_power(wave[:, None, :, None, None, None], phase, torch.full((2, 10), 0.1), harmonics=harmonic - 1)
    assert lower.abs().max() < 1e-9


def test_a_single_phase_counts_nothing() -> None:
    prediction, batch = cine(1)
    x_hat = prediction.image + 0.1
    total, count = losses.sum_and_count("cycle", decoded(prediction, x_hat), batch, curve=1.0)
    assert (float(total), int(count)) == (0, 0)


def test_samples_that_saw_noise_and_pixels_outside_the_field_never_count() -> None:
    prediction, batch = cine()
    x_hat = prediction.image.clone()
    x_hat[1] += torch.rand(x_hat[1].shape)
    x_hat[0, ..., :8, :] += torch.rand(x_hat[0, ..., :8, :].shape)
    field = batch.field.clone()
    field[0, :, :8] = False
    noisy = decoded(prediction, x_hat)._replace(one_step=torch.tensor([True, False]))
    assert mean(noisy, batch._replace(field=field)) == 0
    assert mean(noisy, batch) > 0


def test_curves_wait_for_the_warm_up_and_never_train_the_segmenter() -> None:
    prediction, batch = cine(4)
    x_hat = torch.rand(prediction.image.shape)
    options = {**PARTS, "curve": 1.0, "curve_warmup_steps": 10}
    assert mean(decoded(prediction, x_hat)._replace(step=9), batch, **options) == 0
    x_hat.requires_grad_()
    losses.sum_and_count("cycle", decoded(prediction, x_hat)._replace(step=10), batch, **options)[0].backward()
    assert x_hat.grad is not None and x_hat.grad.any()
    assert all(parameter.grad is None for parameter in prediction.fixed_segmenter().segmenter.parameters())


def test_curves_want_a_segmenter_and_the_rest_does_not() -> None:
    prediction, batch = cine(4)
    bare = prediction._replace(segmenter=None)
    assert mean(bare, batch) == 0
    with pytest.raises(ValueError, match=r"model\.conditioning"):
        mean(bare, batch, curve=1.0)


@pytest.mark.parametrize("options", [{"harmonics": 0}, {"delta": 0.0}, PARTS, {"curve": -1.0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"losses\.cycle"):
        registry.build("modeling.losses", "cycle", options, "losses.cycle")
