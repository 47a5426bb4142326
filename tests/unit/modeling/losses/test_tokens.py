"""The laws of the losses of latents, features and the codebook."""

import socket
import sys
from types import ModuleType
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from torch import Tensor, nn

from modeling.heart.phases import at_phases
from modeling.heart.region import heart_weight
from modeling.heart.segmenter import FixedSegmenter, Segmenter
from modeling.losses import lpips
from modeling.objective import build_objective
from modeling.prediction import Prediction
from modeling.quantizer.vq import VectorQuantizer, nearest
from tests.losses import mean, sum_and_count
from tests.unit.modeling.losses.test_heart import hearts
from utils.config import registry
from utils.types import Batch

PHASES, WIDTH = 5, 16


def batch_of(patients: list[int], phases: int = PHASES) -> Batch:
    count = len(patients)
    return Batch(
        image=torch.zeros(count, 1, phases, 1, 8, 8), mask=torch.zeros(count, 1, phases, 8, 8, dtype=torch.uint8),
        has_label=torch.zeros(count, 1, phases, dtype=torch.bool), field=torch.ones(count, 1, 8, 8, dtype=torch.bool),
        slice_position=torch.full((count, 1), 0.5), phase=torch.arange(phases).expand(count, -1) / phases,
        key_frames=torch.full((count, 2), -1), spacing_mm=torch.ones(count, 3), bsa_m2=torch.ones(count),
        sample_seed=torch.arange(count), patient=torch.tensor(patients), key=[str(patient) for patient in patients],
    )  # fmt: skip


def encoded(latents: Tensor, batch: Batch) -> Prediction:
    zero = torch.zeros(len(batch.patient))
    return Prediction(batch.image, None, zero, zero == 0, latents=latents)


def contrastive(**options: Any) -> Any:
    torch.manual_seed(0)
    return registry.build("modeling.losses", "contrastive", {"width": WIDTH, **options}, "losses.contrastive")


def value(term: Any, latents: Tensor, batch: Batch) -> float:
    total, count = term(encoded(latents, batch), batch), term.count(batch, torch.ones(len(latents)) > 0)
    return float((total / count.clamp(min=1)).detach())


def test_contrastive_is_log_of_one_and_the_negatives_where_nothing_is_told_apart() -> None:
    batch = batch_of([1, 2, 3])
    same = torch.randn(1, 1, 1, WIDTH).expand(3, PHASES, 4, WIDTH)
    assert value(contrastive(), same, batch) == pytest.approx(
        torch.log(torch.tensor(1.0 + 2 * PHASES)).item(), abs=1e-4
    )


def test_contrastive_falls_when_a_patients_phases_align_and_training_aligns_them() -> None:
    batch, term = batch_of([1, 2, 3]), contrastive()
    noise = torch.randn(3, PHASES, 4, WIDTH, generator=torch.Generator().manual_seed(0))
    anchors = torch.randn(3, 1, 1, WIDTH, generator=torch.Generator().manual_seed(1)) * 3
    assert value(term, noise * 0.1 + anchors, batch) < 0.5 * value(term, noise, batch)
    optimizer = torch.optim.Adam(term.parameters(), lr=1e-2)
    before = value(term, noise, batch)
    for _ in range(20):
        optimizer.zero_grad()
        (term(encoded(noise, batch), batch) / term.count(batch, torch.ones(3) > 0)).backward()
        optimizer.step()
    assert value(term, noise, batch) < before and bool(term.log_scale != contrastive().log_scale)


def test_contrastive_leaves_out_a_patients_other_frames_lone_patients_single_phases_and_padding() -> None:
    noise = torch.randn(3, PHASES, 4, WIDTH)
    for patients, phases in (([7, 7, 7], PHASES), ([1, 2, 3], 1)):
        batch = batch_of(patients, phases)
        latents = noise[:, :phases].clone().requires_grad_()
        contrastive()(encoded(latents, batch), batch).backward()
        count = contrastive().count(batch, torch.ones(3) > 0)
        assert count == 0 and torch.isfinite(latents.grad).all() and not latents.grad.any()
    batch = batch_of([1, 2, 3])
    batch.field[2] = False
    without = batch_of([1, 2])
    assert value(contrastive(), noise, batch) == pytest.approx(value(contrastive(), noise[:2], without), rel=1e-5)


def test_contrastive_says_which_width_it_needs() -> None:
    with pytest.raises(
        ValueError, match=r"losses\.contrastive\.width is 16, but the encoder's latents have 8 channels"
    ):
        value(contrastive(), torch.randn(2, PHASES, 4, 8), batch_of([1, 2]))


def test_a_terms_own_parameters_are_the_objectives_and_its_value_is_a_mean_like_any_other() -> None:
    objective = build_objective({"contrastive": {"width": WIDTH}, "reconstruction": {}})
    names = [name for name, _ in objective.named_parameters()]
    assert names and all(name.startswith("learned.contrastive.") for name in names)
    assert not list(build_objective({"reconstruction": {}}).parameters())


def test_a_dead_entry_moves_to_a_latent_and_is_used_and_no_other_moves() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(8, 4, use_l2_norm=False)
    z = torch.randn(6, 4) + 10
    before = quantizer.embedding.weight.detach().clone()
    dead = torch.ones(8, dtype=torch.bool)
    dead[nearest(z, quantizer.codebook()).unique()] = False
    assert 0 < dead.sum() < 8
    quantizer.reseed(dead, z, seed=3)
    after = quantizer.embedding.weight.detach()
    assert torch.equal(after[~dead], before[~dead])
    assert set(nearest(z, after).tolist()) & set(torch.where(dead)[0].tolist())
    again = VectorQuantizer(8, 4, use_l2_norm=False)
    again.load_state_dict({"embedding.weight": before})
    again.reseed(dead, z, seed=3)
    assert torch.equal(again.embedding.weight, after)


def test_the_heart_weighs_more_and_an_even_error_costs_the_same() -> None:
    prediction, batch = hearts()
    batch = batch._replace(field=batch.field.clone())
    batch.field[:, :, 28:] = False
    weight = heart_weight(batch, 5.0, margin_mm=2.0)
    assert weight[0, 0, 15, 15] == pytest.approx(5 * float(weight[0, 0, 0, 31])) and not weight[:, :, 28:].any()
    even = prediction._replace(reconstruction=batch.image + 0.1)
    for name in ("pixel", "reconstruction"):
        costs = [mean(name, even, batch, heart=heart) for heart in (1.0, 5.0)]
        assert costs[1] == pytest.approx(costs[0], rel=1e-4)
        at_heart, beside = batch.image.clone(), batch.image.clone()
        at_heart[..., 16:18, 16:18] += 0.5
        beside[..., :2, 28:30] += 0.5
        assert mean(name, prediction._replace(reconstruction=at_heart), batch, heart=5.0) > 3 * mean(
            name, prediction._replace(reconstruction=beside), batch, heart=5.0
        )


def test_perceptual_is_zero_on_identity_and_its_gradient_reaches_the_reconstruction_alone() -> None:
    torch.manual_seed(0)
    prediction, batch = hearts()
    segmenter = Segmenter().eval()
    key_frames = at_phases(batch.image, batch.key_frames)
    assert mean(
        "perceptual", prediction._replace(segmenter=FixedSegmenter(segmenter, key_frames)), batch
    ) == pytest.approx(0, abs=1e-6)
    drawn = (key_frames + 0.3 * torch.rand_like(key_frames)).requires_grad_()
    decoded = prediction._replace(segmenter=FixedSegmenter(segmenter, drawn))
    waiting, count = sum_and_count("perceptual", decoded, batch, warmup_steps=2)
    assert waiting == 0 and count == 0
    total, count = sum_and_count("perceptual", decoded._replace(step=2), batch, warmup_steps=2)
    total.backward()
    assert total > 0 and count == 4 and drawn.grad is not None and drawn.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in segmenter.parameters())
    noisy = decoded._replace(step=2, one_step=torch.tensor([False, False]))
    assert sum_and_count("perceptual", noisy, batch)[1] == 0


def test_lpips_is_an_extra_that_says_how_to_get_it_and_is_neither_trained_nor_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        build_objective({"lpips": {}})

    class Network(nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor, y: Tensor, normalize: bool) -> Tensor:
            return (self.layer(x) - self.layer(y)).square().mean((1, 2, 3), keepdim=True)

    stub = ModuleType("lpips")
    stub.LPIPS = Network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", stub)
    objective = build_objective({"lpips": {}})
    assert not list(objective.parameters()) and not objective.state_dict()
    prediction, batch = hearts()
    assert mean("lpips", prediction._replace(reconstruction=batch.image.clone()), batch) == 0
    drawn = (batch.image + 0.2).requires_grad_()
    total = objective(prediction._replace(reconstruction=drawn), batch)
    count = objective.counts(batch, prediction.one_step, 0)
    total.sum().backward()
    assert count == 6 and total > 0 and drawn.grad is not None and drawn.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="expected alex, squeeze, vgg"):
        build_objective({"lpips": {"net": "resnet"}})


def test_lpips_behind_a_silent_network_says_what_was_asked_for_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, and stays silent

        def download(net: str, verbose: bool) -> None:
            urlopen(f"http://127.0.0.1:{server.getsockname()[1]}/{net}.pth")

        stub = ModuleType("lpips")
        stub.LPIPS = download  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lpips", stub)
        monkeypatch.setattr(lpips, "SILENCE_SECONDS", 0.3)
        with pytest.raises(OSError, match=r"losses.lpips: the weights of alex cannot be downloaded .*checkpoints"):
            build_objective({"lpips": {}})
    assert socket.getdefaulttimeout() is None
