"""A batch of stacks of different depth costs what its members cost alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from data.loading.dataset import Sample
from data.loading.loader import collate
from modeling import flow
from modeling.draws import draw
from modeling.flow import FlowConfig
from modeling.objective import Objective, build_objective
from modeling.prediction import Prediction
from modeling.titok import TiTok
from tests.losses import weighted_sum
from tests.tiny import tiny_model
from utils.types import Batch

LOSSES = {
    "flow": {}, "pixel": {}, "reconstruction": {"l1": 0.5}, "commitment": {},
    "segmentation": {}, "segmentation_reconstruction": {}, "volume": {}, "cycle": {"curve": 1.0}, "perceptual": {},
    "disease": {},
}  # fmt: skip


def stack(slices: int, seed: int, labelled: bool = False) -> Sample:
    """A stack of 32 px at ED and ES with a heart in each slice, the last one with labels only where asked for."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((slices, 2, 32, 32), np.uint8)
    mask[..., 8:20, 8:20], mask[..., 10:18, 10:18] = 2, 3
    mask[:, 1, 10:18, 10:18], mask[:, 1, 13:15, 13:15] = 2, 3  # it ejects
    has_label = np.ones((slices, 2), bool)
    if not labelled:
        has_label[-1], mask[-1] = False, 0
    field = np.ones((slices, 32, 32), bool)
    field[:, :4] = False
    arrays = {
        "image": rng.random((slices, 2, 1, 32, 32), np.float32) * field[:, None, None], "mask": mask,
        "has_label": has_label, "field": field, "slice_position": np.full(slices, 0.3, np.float32),
        "phase": np.array([0.0, 0.4], np.float32), "spacing_mm": np.array([1.5, 1.5, 8.0], np.float32),
        "bsa_m2": np.array(1.8, np.float32), "key_frames": np.array([0, 1]), "patient": np.array(seed),
    }  # fmt: skip
    return Sample(arrays, seed, f"patient{seed:03d}")


def predict(model: TiTok, batch: Batch, share: float) -> Prediction:
    draws = draw(batch, FlowConfig(one_step_share=share), 0.0, [], 0)
    noise = flow.draw_noise(batch.sample_seed, draws.t, batch.image.shape, batch.image.device)
    return model(batch, draws._replace(noise=noise))


def sums_and_counts(objective: Objective, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
    return objective(prediction, batch), objective.counts(batch, prediction.one_step, 0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_padded_batch_has_the_sums_and_counts_of_its_members_alone(share: float) -> None:
    model, objective = tiny_model(conditioning="resnet18"), build_objective(LOSSES)
    stacks = [stack(2, 1, labelled=True), stack(4, 2), stack(3, 3, labelled=True)]
    batch = collate(stacks)
    prediction = predict(model, batch, share)
    assert prediction.logits.shape == (3, 4, 2, 4, 32, 32)
    sums, counts = sums_and_counts(objective, prediction, batch)
    alone = [sums_and_counts(objective, predict(model, one, share), one) for one in (collate([s]) for s in stacks)]
    assert torch.allclose(sums, sum(s for s, _ in alone), rtol=1e-4)
    assert torch.equal(counts, sum(c for _, c in alone))
    one_step = share == 1  # some losses count one-step decodes alone
    assert [bool(count) for count in counts] == [True, one_step, True, True, True, *[one_step] * 5]


@pytest.mark.parametrize("name", [*LOSSES, "codebook_usage"])
def test_nothing_in_a_padded_slice_changes_a_loss(name: str) -> None:
    model, objective = tiny_model(conditioning="resnet18"), build_objective({name: LOSSES.get(name, {})})
    batch = collate([stack(2, 1, labelled=True), stack(4, 2, labelled=True)])
    spoiled = batch._replace(image=batch.image.clone())
    spoiled.image[0, 2:] = torch.rand(2, 2, 1, 32, 32)
    (sums, counts), (others, same) = (sums_and_counts(objective, predict(model, b, 1.0), b) for b in (batch, spoiled))
    assert torch.allclose(sums, others, rtol=1e-4) and torch.equal(counts, same) and sums.abs() > 0


@pytest.mark.parametrize("decoder", ["dit", "titok"])
def test_no_gradient_comes_from_a_padded_slice(decoder: str) -> None:
    model = tiny_model(decoder).requires_grad_(True)
    objective = build_objective({"reconstruction": {}, "commitment": {}, "codebook_usage": {}})
    batch = collate([stack(2, 1), stack(4, 2)])
    image = batch.image.clone().requires_grad_()
    prediction = predict(model, batch._replace(image=image), 1.0)
    weighted_sum(objective, prediction, batch).backward()
    assert image.grad[0, :2].any() and not image.grad[0, 2:].any()
