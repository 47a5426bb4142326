"""The laws of the two losses of a ladder, rate and refinement."""

import pytest
import torch
from torch import nn

from data.loading.loader import collate
from modeling.draws import no_draws
from modeling.ladder.ladder import LadderOutput
from modeling.objective import build_objective
from modeling.prediction import Prediction
from modeling.titok import TiTok
from tests.ladders import batch_of, smooth_cine
from tests.losses import mean, sum_and_count
from tests.tiny import tiny_config, tiny_model
from tests.unit.modeling.losses.test_padded_stacks import stack
from utils.types import Batch

BOTH = ("rate", "refinement")


def given(bits: list[list[float]], steps: list[list[float]], error: list[list[float]]) -> tuple[Prediction, Batch]:
    """Two samples of 2 slices, 3 phases and 4 x 5 pixels with a known output of the ladder."""
    batch = batch_of(torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5))
    trained = LadderOutput(*(torch.tensor(values) for values in (bits, steps, error)))
    zero = torch.zeros(2)
    return Prediction(batch.image, None, zero, zero == 0, ladder=trained), batch


def test_the_rate_is_bits_a_coefficient_times_a_power_of_the_step() -> None:
    pair = given([[100.0, 300.0], [50.0, 50.0]], [[0.1, 0.1], [0.2, 0.1]], [[1.0, 1.0]] * 2)
    total, count = sum_and_count("rate", *pair, exponent=0.0)
    assert float(total) == pytest.approx(200 + 50) and int(count) == 2 * 2 * 3 * 4 * 5
    assert float(sum_and_count("rate", *pair, exponent=1.0)[0]) == pytest.approx(200 + (100 + 50) / 2)
    assert mean("rate", *pair) == pytest.approx((200 + 50 * (2**1.1 + 1) / 2) / 240, rel=1e-5)


def test_the_refinement_is_the_mean_error_that_is_left() -> None:
    pair = given([[1.0, 1.0]] * 2, [[0.1, 0.1]] * 2, [[0.8, 0.6], [1.0, 1.0]])
    total, count = sum_and_count("refinement", *pair)
    assert float(total) == pytest.approx(1.7) and int(count) == 2


@pytest.mark.parametrize("name", BOTH)
def test_a_model_without_ladder_is_refused(name: str) -> None:
    prediction, batch = given([[1.0]] * 2, [[1.0]] * 2, [[1.0]] * 2)
    with pytest.raises(ValueError, match=r"needs a ladder \(model.layout\)"):
        build_objective({name: {}})(prediction._replace(ladder=None), batch)


@pytest.mark.parametrize("name", BOTH)
def test_a_few_steps_of_training_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    model, objective = TiTok(tiny_config(layout="ladder")), build_objective({name: {}})
    batch = batch_of(smooth_cine(2, 4, 16, 20))
    optimizer, values = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(12):
        optimizer.zero_grad()
        prediction = model(batch, no_draws(batch))
        loss = objective.total(objective(prediction, batch), objective.counts(batch, prediction.one_step, 0))
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.97 * values[0]


@pytest.mark.parametrize("search", [False, True])
def test_what_is_drawn_follows_from_the_seed_of_a_sample_alone(search: bool) -> None:
    model = tiny_model(layout="ladder")
    model.ladder.config.search = search
    cines = [smooth_cine(3, 3, 16, 20, seed=n) for n in range(3)]
    batch = batch_of(*cines, seed=5)
    whole, again = (model(batch, no_draws(batch)).ladder for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert len(whole.steps.unique()) == whole.steps.numel() == 6
    for n in range(3):
        one = batch_of(cines[n], seed=5 + n)
        alone = model(one, no_draws(one)).ladder
        for part, same in zip(whole, alone, strict=True):
            torch.testing.assert_close(part[n : n + 1], same)


def test_a_few_slices_stand_for_all() -> None:
    batch, bits = batch_of(smooth_cine(1, 4, 16, 20).repeat(4, 1, 1, 1)), []
    for slices in (1, 3, 4, 9):
        model = tiny_model(layout="ladder")
        model.ladder.config.slices, model.ladder.config.positions = slices, 10**6
        bits.append(model(batch, no_draws(batch)).ladder.bits)
    for part in bits[1:]:
        torch.testing.assert_close(part, bits[0])


def test_a_network_that_does_not_train_costs_nothing() -> None:
    model, batch = tiny_model(layout="ladder"), batch_of(smooth_cine(2, 3, 16, 20))
    model.ladder.context.requires_grad_(False)
    ladder = model(batch, no_draws(batch)).ladder
    assert not ladder.bits.any() and (ladder.error != 1).all()
    model.ladder.requires_grad_(True).refinement.requires_grad_(False)
    ladder = model(batch, no_draws(batch)).ladder
    assert (ladder.bits > 0).all() and (ladder.error == 1).all()
    with torch.no_grad():
        assert (model(batch, no_draws(batch)).ladder.bits > 0).all()  # of a validation


def test_a_validation_shows_the_decoded_cine() -> None:
    model, batch = TiTok(tiny_config(layout="ladder")), batch_of(smooth_cine(2, 3, 16, 20))
    assert model(batch, no_draws(batch)).reconstruction is None
    with torch.no_grad():
        decoded = model(batch, no_draws(batch)).reconstruction
    assert decoded.shape == batch.image.shape
    assert 0 < float((decoded - batch.image).square().mean().sqrt()) < 0.1


@pytest.mark.parametrize("name", BOTH)
def test_a_padded_batch_has_the_sums_and_counts_of_its_members_alone(name: str) -> None:
    model, stacks = tiny_model(layout="ladder"), [stack(2, 1), stack(4, 2), stack(3, 3)]
    objective = build_objective({name: {}})

    def sums_and_counts(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        prediction = model(batch, no_draws(batch))
        return objective(prediction, batch).detach(), objective.counts(batch, prediction.one_step, 0)

    sums, counts = sums_and_counts(collate(stacks))
    alone = [sums_and_counts(collate([one])) for one in stacks]
    torch.testing.assert_close(sums, sum(s for s, _ in alone), rtol=1e-4, atol=1e-5)
    assert torch.equal(counts, sum(c for _, c in alone)) and counts > 0


@pytest.mark.parametrize("name", BOTH)
def test_nothing_in_a_padded_slice_changes_a_loss(name: str) -> None:
    model, batch = tiny_model(layout="ladder"), collate([stack(2, 1), stack(4, 2)])
    spoiled = batch._replace(image=batch.image.clone())
    spoiled.image[0, 2:] = torch.rand(2, 2, 1, 32, 32)
    values = [sum_and_count(name, model(b, no_draws(b)), b) for b in (batch, spoiled)]
    assert torch.equal(values[0][0], values[1][0]) and torch.equal(values[0][1], values[1][1])


@pytest.mark.parametrize("trains", [True, False])
def test_a_run_of_mixed_precision_uses_the_ladder_in_float32(trains: bool) -> None:
    torch.manual_seed(0)
    model = TiTok(tiny_config(layout="ladder"))
    assert model.ladder is not None
    for parameter in model.ladder.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    batch = batch_of(smooth_cine(2, 4, 16, 20))
    with torch.set_grad_enabled(trains):
        exact = model(batch, no_draws(batch))
        with torch.autocast("cpu", torch.bfloat16):
            lowered = model(batch, no_draws(batch))
    assert all(torch.equal(a, b) for a, b in zip(exact.ladder, lowered.ladder, strict=True))
    assert float(exact.ladder.bits.detach().sum()) > 0
    assert (exact.reconstruction is None) == (lowered.reconstruction is None) == trains
    assert trains or torch.equal(exact.reconstruction, lowered.reconstruction)


def test_the_rate_trains_any_part_of_the_context_model() -> None:
    torch.manual_seed(0)
    model = TiTok(tiny_config(layout="ladder"))
    nn.init.normal_(model.ladder.context.out.requires_grad_(False).weight)  # 0 in a new model
    batch = batch_of(smooth_cine(2, 4, 16, 20))
    total, _ = sum_and_count("rate", model(batch, no_draws(batch)), batch)
    total.backward()
    grads = [p.grad for p in model.ladder.context.parameters() if p.requires_grad]
    assert float(total.detach()) > 0 and any(grad is not None and grad.abs().sum() > 0 for grad in grads)
