"""Laws of the weighted sum of losses: what counts follows from the batch, and many micro-batches are one batch."""

import pytest
import torch

from modeling.draws import no_draws
from modeling.objective import build_objective
from modeling.prediction import Prediction
from modeling.titok import TiTok
from tests.tiny import tiny_model
from tests.unit.modeling.losses.test_where_gradients_go import IMAGE_TERMS, LADDER_TERMS, TOKEN_TERMS, hearts
from utils.types import Batch

ALL = {**IMAGE_TERMS, **TOKEN_TERMS, **LADDER_TERMS, "segmentation": {}}
STATISTICS_OF_THE_BATCH = ("codebook_usage", "contrastive")  # no mean over samples, by their nature


def model_for(name: str) -> TiTok:
    decoder = "titok" if name in TOKEN_TERMS else "dit"
    layout = "ladder" if name in LADDER_TERMS else "sequence" if name == "resampling" else "frame"
    return tiny_model(decoder, conditioning="resnet18", layout=layout)


def predict(name: str, batch: Batch, t: torch.Tensor) -> Prediction:
    model = model_for(name)
    return model(batch, no_draws(batch)._replace(t=t))


def part(batch: Batch, rows: slice) -> Batch:
    chosen = {name: value[rows] for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
    return batch._replace(**chosen, key=batch.key[rows])


@pytest.mark.parametrize("times", [(0.0, 0.0), (0.0, 0.5), (0.5, 0.5)])
@pytest.mark.parametrize("name", sorted(ALL))
def test_a_loss_that_counts_nothing_sums_to_nothing(name: str, times: tuple[float, float]) -> None:
    if name == "lpips":
        pytest.importorskip("lpips", reason="an optional extra")
    batch, t = hearts(), torch.tensor(times)
    objective = build_objective({name: ALL[name]})
    prediction = predict(name, batch, t)
    count = objective.counts(batch, prediction.one_step, prediction.step)
    assert count.shape == (1,) and bool(objective(prediction, batch) != 0) == bool(count > 0)


@pytest.mark.parametrize("name", sorted(set(ALL) - {*STATISTICS_OF_THE_BATCH, "lpips"}))
def test_the_gradient_of_uneven_micro_batches_is_that_of_one_batch(name: str) -> None:
    """One sample has no labels and half of a field, so that the micro-batches count unlike."""
    whole = hearts()
    has_label, field = whole.has_label.clone(), whole.field.clone()
    has_label[1] &= name == "disease"
    field[1, :, :16] = False
    whole = whole._replace(has_label=has_label, field=field)
    objective = build_objective({name: ALL[name]})
    gradients = []
    for rows in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        batches, t = [part(whole, row) for row in rows], torch.zeros(1)
        counts = torch.stack([objective.counts(batch, t.expand(len(batch.image)) == 0, 0) for batch in batches]).sum(0)
        model = model_for(name)
        for batch in batches:
            objective.total(objective(model(batch, no_draws(batch)), batch), counts).backward()
        gradients.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    for key, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][key], rtol=1e-3, atol=1e-6 + 1e-4 * float(gradient.abs().max())), (
            key
        )


def test_counts_of_1_and_3_weigh_samples_and_not_micro_batches() -> None:
    objective = build_objective({"flow": {}})
    sums, counts = torch.tensor([[2.0], [3.0]]), torch.tensor([[1.0], [3.0]])
    assert sum(float(objective.total(s, counts.sum(0))) for s in sums) == 1.25
