"""What each loss trains: image terms the decoder and no frozen tokenizer, token terms the phase adapter of stage 1.

Each of the two terms of a ladder trains one of its networks alone.
"""

from typing import Any

import pytest
import torch

from modeling.draws import no_draws
from modeling.objective import build_objective
from tests.losses import weighted_sum
from tests.tiny import tiny_model
from utils.config import registry
from utils.types import Batch

IMAGE_TERMS: dict[str, dict[str, Any]] = {
    "cycle": {"curve": 1.0}, "disease": {}, "flow": {}, "lpips": {}, "perceptual": {}, "pixel": {"heart": 2.0},
    "segmentation_reconstruction": {}, "volume": {},
}  # fmt: skip
TOKEN_TERMS: dict[str, dict[str, Any]] = {
    "codebook_usage": {}, "commitment": {}, "contrastive": {"width": 32, "dim": 8}, "reconstruction": {},
    "resampling": {},
}  # fmt: skip
LADDER_TERMS: dict[str, dict[str, Any]] = {"rate": {}, "refinement": {}}


def hearts() -> Batch:
    """Two patients of two slices and four phases, with a beating ring between a disc and a box."""
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    distance = ((row - 16).square() + (column - 16).square()).float().sqrt()
    mask = torch.zeros(2, 2, 4, 32, 32, dtype=torch.uint8)
    for phase, radius in ((0, 7), (2, 3)):
        frame = ((distance < radius + 4).byte() * 2 + (distance < radius).byte()).to(torch.uint8)
        frame[10:22, 0:4] = 1
        mask[:, :, phase] = frame
    has_label = torch.tensor([True, False, True, False]).expand(2, 2, -1)
    return Batch(
        image=torch.rand(2, 2, 4, 1, 32, 32), mask=mask, has_label=has_label,
        field=torch.ones(2, 2, 32, 32, dtype=torch.bool), slice_position=torch.tensor([[0.25, 0.75]] * 2),
        phase=(torch.arange(4) / 4).expand(2, -1), key_frames=torch.tensor([[0, 2]] * 2),
        spacing_mm=torch.tensor([[2.0, 2.0, 10.0]] * 2), bsa_m2=torch.ones(2), sample_seed=torch.tensor([1, 2]),
        patient=torch.tensor([1, 2]), key=["a", "b"], has_key_frames=True,
    )  # fmt: skip


def test_every_loss_is_held_to_one_of_the_three_laws() -> None:
    known = [*IMAGE_TERMS, *TOKEN_TERMS, *LADDER_TERMS, "segmentation"]  # segmentation trains the segmenter alone
    assert sorted(known) == sorted(registry.names("modeling.losses"))


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("name", IMAGE_TERMS)
def test_an_image_term_reaches_the_first_layer_of_the_dit_and_no_frozen_tokenizer(name: str, draft: bool) -> None:
    if name == "lpips":
        pytest.importorskip("lpips", reason="an optional extra")
    model, batch = tiny_model(conditioning="resnet18", draft=draft), hearts()
    model.tokenizer.requires_grad_(False)
    model.adapters.requires_grad_(False)
    prediction = model(batch, no_draws(batch))
    objective = build_objective({name: IMAGE_TERMS[name]})
    weighted_sum(objective, prediction, batch).backward()
    first = (model.dit.context_embedder.weight, model.dit.x_embedder.bias)  # of tokens and of the empty noisy image
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in first)
    frozen = (model.tokenizer, model.adapters, model.segmenter)
    assert all(parameter.grad is None for part in frozen for parameter in part.parameters())


@pytest.mark.parametrize("name", TOKEN_TERMS)
def test_a_term_of_stage_one_reaches_the_phase_adapter(name: str) -> None:
    model, batch = tiny_model("titok", layout="sequence" if name == "resampling" else "frame"), hearts()
    prediction = model(batch, no_draws(batch))
    objective = build_objective({name: TOKEN_TERMS[name]})
    weighted_sum(objective, prediction, batch).backward()
    adapter = model.adapters.phase[0]
    assert all(layer.weight.grad is not None and layer.weight.grad.any() for layer in (adapter.qkv, adapter.proj))


@pytest.mark.parametrize(("name", "trains", "leaves"), [("rate", "context", "refinement"),
                                                        ("refinement", "refinement", "context")])  # fmt: skip
def test_a_term_of_a_ladder_reaches_all_of_its_network_and_nothing_of_the_other(
    name: str, trains: str, leaves: str
) -> None:
    model, batch = tiny_model(layout="ladder"), hearts()
    prediction = model(batch, no_draws(batch))
    weighted_sum(build_objective({name: LADDER_TERMS[name]}), prediction, batch).backward()
    trained, left = (dict(getattr(model.ladder, part).named_parameters()) for part in (trains, leaves))
    assert trained and all(p.grad is not None and p.grad.any() for p in trained.values())
    assert left and all(p.grad is None or not p.grad.any() for p in left.values())
