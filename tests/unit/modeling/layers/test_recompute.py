"""Recomputation changes what is kept until the backward pass, and neither results nor gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.draws import no_draws
from modeling.layers.recompute import recomputed
from modeling.objective import build_objective
from modeling.titok import TiTok
from tests.losses import weighted_sum
from tests.tiny import tiny_model
from tests.unit.modeling.losses.test_where_gradients_go import hearts
from utils.run.optim import select_trainable

ALL_FRAMES = 16  # of the batch: 2 patients, 2 slices, 4 phases
KINDS: dict[str, tuple[dict[str, Any], list[str], dict[str, Any]]] = {
    "stage 1": (
        {"decoder": "titok"},
        ["adapters", "tokenizer.latent_tokens", "tokenizer.encoder", "tokenizer.quantize"],
        {"reconstruction": {}, "commitment": {}, "codebook_usage": {}},
    ),
    "sequence": (
        {"decoder": "titok", "layout": "sequence"},
        ["resampler"],
        {"reconstruction": {}, "resampling": {}},
    ),
    "stage 2": (
        {"conditioning": "resnet18", "draft": True},
        ["dit", "conditioning"],
        {"flow": {}, "pixel": {}, "cycle": {"curve": 1.0}, "volume": {}, "perceptual": {}},
    ),
    "early fusion": ({"conditioning": "resnet18"}, ["dit.blocks.1", "conditioning.tokens"], {"flow": {}}),
}


def step(model: TiTok, kind: str, frames: int, autocast: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one pass and all gradients."""
    _, trainable, losses = KINDS[kind]
    model.recompute(frames)
    chosen, batch = select_trainable(model, trainable), hearts()
    model.zero_grad()
    t = torch.tensor([0.0, 0.4]) if model.dit is not None else torch.zeros(2)
    noise = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(1)) * (t > 0).view(2, 1, 1, 1, 1, 1)
    batch = batch._replace(has_key_frames=model.segmenter is not None)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        prediction = model(batch, no_draws(batch)._replace(t=t, noise=noise))
    objective = build_objective(losses)
    loss = weighted_sum(objective, prediction, batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in chosen.items() if p.grad is not None}
    assert all(p.grad is None for name, p in model.named_parameters() if name not in chosen)
    return loss.detach(), found


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_chunk_of_all_frames_gives_the_same_loss_and_gradients_to_the_bit(kind: str, autocast: bool) -> None:
    model = tiny_model(**KINDS[kind][0])
    (kept, gradients), (loss, again) = (step(model, kind, frames, autocast) for frames in (0, ALL_FRAMES))
    assert torch.equal(kept, loss) and gradients and gradients.keys() == again.keys()
    assert all(torch.equal(gradients[name], again[name]) for name in gradients)


@pytest.mark.parametrize("frames", [1, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_any_size_give_the_same_loss_and_gradients(kind: str, frames: int) -> None:
    model = tiny_model(**KINDS[kind][0])
    (kept, gradients), (loss, again) = (step(model, kind, count, False) for count in (0, frames))
    assert torch.allclose(kept, loss, rtol=1e-5) and gradients.keys() == again.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, again[name], rtol=1e-3, atol=1e-5 * float(gradient.abs().max())), name


def kept_bytes(model: TiTok, kind: str, frames: int) -> int:
    """Bytes that a pass keeps for its backward pass."""
    sizes: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step(model, kind, frames, False)
    return sum(sizes.values())


@pytest.mark.parametrize("kind", ["stage 1", "stage 2"])
def test_with_chunks_less_is_kept(kind: str) -> None:
    model = tiny_model(**KINDS[kind][0])
    assert kept_bytes(model, kind, 4) < 0.6 * kept_bytes(model, kind, 0)


def test_without_gradients_nothing_is_cut_into_chunks() -> None:
    calls: list[int] = []

    def work(x: Tensor) -> Tensor:
        calls.append(len(x))
        return 2 * x

    with torch.no_grad():
        recomputed(work, 2, torch.zeros(5, requires_grad=True))
    recomputed(work, 2, torch.zeros(5, requires_grad=True))
    assert calls == [5, 2, 2, 1]


def test_a_negative_number_of_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.recompute_frames is -1: expected"):
        tiny_model().recompute(-1)
