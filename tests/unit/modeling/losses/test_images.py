"""The law of each loss."""

import pytest
import torch

from modeling.objective import build_objective
from modeling.prediction import Prediction
from modeling.quantizer.vq import Quantized
from tests.losses import mean, sum_and_count, weighted_sum
from utils.types import Batch


def pair(reconstruction_error: float = 0.0, t: float = 0.0) -> tuple[Prediction, Batch]:
    """Two frames; the second one's lower half is padding."""
    torch.manual_seed(0)
    image = torch.rand(2, 1, 1, 1, 8, 8)
    z = torch.randn(2, 3, 4)
    codebook = torch.randn(16, 4)
    indices = torch.randint(16, (2, 3))
    codes = codebook[indices]
    quantized = Quantized(codes.transpose(1, 2).unsqueeze(2), z, codes, indices)
    times = torch.full((2,), t)
    prediction = Prediction(
        image, image + reconstruction_error, times, times == 0, torch.randn(2, 1, 3, 8), quantized, indices, codebook
    )
    field = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    field[1, :, 4:] = False
    batch = Batch(
        image, torch.zeros(2, 1, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 1, dtype=torch.bool), field,
        torch.full((2, 1), 0.5), torch.zeros(2, 1), torch.full((2, 2), -1), torch.ones(2, 3),
        torch.ones(2), torch.tensor([1, 2]), torch.tensor([1, 2]), ["a", "b"],
    )  # fmt: skip
    return prediction, batch


@pytest.mark.parametrize("name", ["reconstruction", "pixel", "flow"])
def test_image_terms_are_zero_on_identity_and_positive_otherwise(name: str) -> None:
    assert mean(name, *pair()) == 0
    assert mean(name, *pair(0.1)) > 0


@pytest.mark.parametrize("name", ["reconstruction", "pixel", "flow"])
def test_padding_never_counts(name: str) -> None:
    prediction, batch = pair()
    spoiled = prediction.reconstruction.clone()
    spoiled[1, ..., 4:, :] += 5
    assert mean(name, prediction._replace(reconstruction=spoiled), batch) == 0


def test_the_reconstruction_error_is_the_stated_mix_of_squares_and_absolutes() -> None:
    assert mean("reconstruction", *pair(0.1), mse=2.0, l1=0.5) == pytest.approx(2 * 0.01 + 0.5 * 0.1, rel=1e-4)


def test_the_pixel_loss_skips_samples_that_are_decoded_from_a_noisy_image() -> None:
    prediction, batch = pair(0.1, t=0.5)
    assert [float(v) for v in sum_and_count("pixel", prediction, batch)] == [0.0, 0.0]


def test_the_flow_error_is_the_velocity_error_of_images_in_minus_one_to_one() -> None:
    assert mean("flow", *pair(0.1, t=0.5)) == pytest.approx((0.2 / 0.5) ** 2, rel=1e-4)


def test_commitment_pulls_latents_weakly_and_entries_strongly() -> None:
    prediction, batch = pair()
    q = prediction.quantized
    z, codes = q.z.clone().requires_grad_(), q.codes.clone().requires_grad_()
    sum_and_count("commitment", prediction._replace(quantized=q._replace(z=z, codes=codes)), batch)[0].backward()
    assert z.grad is not None and codes.grad is not None
    assert torch.allclose(z.grad, -0.25 * codes.grad)
    assert mean("commitment", prediction._replace(quantized=q._replace(z=q.codes)), batch) == 0


def test_codebook_usage_is_zero_when_all_entries_are_used_alike_and_log_v_when_one_is() -> None:
    prediction, batch = pair()
    codebook = torch.eye(4) * 10
    spread = prediction.quantized._replace(z=codebook.repeat(2, 1, 1))
    collapsed = prediction.quantized._replace(z=codebook[:1].repeat(2, 4, 1))
    assert mean("codebook_usage", prediction._replace(quantized=spread, codebook=codebook), batch) < 1e-4
    value = mean("codebook_usage", prediction._replace(quantized=collapsed, codebook=codebook), batch)
    assert value == pytest.approx(torch.log(torch.tensor(4.0)).item(), rel=1e-3)


def test_the_total_is_the_weighted_sum_of_the_means() -> None:
    prediction, batch = pair(0.1)
    objective = build_objective({"pixel": {"weight": 2.0, "kind": "l1"}, "flow": {"weight": 0.5}})
    assert float(weighted_sum(objective, prediction, batch)) == pytest.approx(2.0 * 0.1 + 0.5 * 0.04, rel=1e-4)


def test_a_misspelt_loss_or_option_is_named_with_a_suggestion() -> None:
    with pytest.raises(ValueError, match=r"losses\.flwo.*losses\.flow"):
        build_objective({"flwo": {}})
    with pytest.raises(ValueError, match=r"losses\.pixel\.knid.*kind"):
        build_objective({"pixel": {"knid": "l1"}})
    with pytest.raises(ValueError, match="expected mse or l1"):
        build_objective({"pixel": {"kind": "l3"}})
    with pytest.raises(ValueError, match="losses is empty"):
        build_objective({})
