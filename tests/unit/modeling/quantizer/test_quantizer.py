"""Laws of the vector quantizer."""

import math

import pytest
import torch

from modeling.quantizer.fsq import FSQ
from modeling.quantizer.vq import VectorQuantizer, nearest


@pytest.mark.parametrize("use_l2_norm", [False, True])
def test_every_latent_becomes_its_nearest_entry(use_l2_norm: bool) -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(32, 4, use_l2_norm)
    torch.nn.init.normal_(quantizer.embedding.weight)
    z = torch.randn(3, 4, 1, 5)
    result = quantizer(z)
    flat = result.z.reshape(-1, 4)
    expected = torch.cdist(flat, quantizer.codebook()).argmin(1)
    assert torch.equal(result.indices.flatten(), expected)
    assert torch.allclose(result.vectors, quantizer.lookup(result.indices), atol=1e-6)


def test_the_gradient_of_the_decoder_passes_straight_to_the_latents() -> None:
    quantizer = VectorQuantizer(16, 4, use_l2_norm=False)
    z = torch.randn(2, 4, 1, 3, requires_grad=True)
    upstream = torch.randn(2, 4, 1, 3)
    (quantizer(z).vectors * upstream).sum().backward()
    assert z.grad is not None and torch.allclose(z.grad, upstream)


def test_a_bypassed_quantizer_hands_the_latents_on_unchanged() -> None:
    quantizer = VectorQuantizer(16, 4, use_l2_norm=False)
    quantizer.bypass = True
    z = torch.randn(2, 4, 1, 3)
    assert torch.equal(quantizer(z).vectors, z)


def test_k_means_spreads_the_entries_alike_for_one_seed_and_needs_enough_latents() -> None:
    torch.manual_seed(0)
    centers = torch.randn(4, 6) * 10
    points = centers.repeat(50, 1) + 0.01 * torch.randn(200, 6)
    quantizer = VectorQuantizer(4, 6, use_l2_norm=False)
    quantizer.fit_codebook(centers + 0.1, seed=0)
    quantizer.fit_codebook(points, seed=1)
    assert len(nearest(points, quantizer.codebook()).unique()) > 1
    with pytest.raises(ValueError, match="at least 4 latents"):
        quantizer.fit_codebook(points[:3], seed=0)
    again = VectorQuantizer(4, 6, use_l2_norm=False)
    again.fit_codebook(points, seed=1)
    assert torch.equal(again.codebook(), quantizer.codebook())


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_zero_lies_in_the_middle_of_a_bin_of_fsq(levels: int) -> None:
    fsq = FSQ([levels])
    values, ids = fsq(torch.linspace(-0.1, 0.1, 41).unsqueeze(1))
    assert ids.unique().numel() == 1 and not values.any()


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8])
def test_fsq_rounds_as_the_paper_does(levels: int) -> None:
    """Appendix A of the paper, written out for one channel."""
    z = torch.linspace(-6, 6, 1001)
    half = (levels - 1) * 1.001 / 2
    offset = 0.5 if levels % 2 == 0 else 0.0
    expected = (torch.tanh(z + math.atanh(offset / half)) * half - offset).round() / (levels // 2)
    assert torch.allclose(FSQ([levels])(z.unsqueeze(1))[0].squeeze(1), expected, atol=1e-6)


def test_fsq_ids_and_values_tell_the_same_and_every_id_can_be_written() -> None:
    fsq = FSQ([4, 3, 2])
    values, ids = fsq(3 * torch.randn(5000, 3))
    assert torch.allclose(fsq.lookup(ids), values, atol=1e-6)
    assert sorted(ids.unique().tolist()) == list(range(24))
    assert values.abs().max() <= 1


def test_fsq_passes_the_gradient_through_the_rounding_and_refuses_single_levels() -> None:
    z = torch.zeros(2, 2, requires_grad=True)
    FSQ([8, 8])(z)[0].sum().backward()
    assert (z.grad > 0).all()
    with pytest.raises(ValueError, match="at least 2"):
        FSQ([8, 1])


@pytest.mark.parametrize("levels", [2, 3, 1000, 1001, 65536])
def test_the_outermost_ids_of_a_channel_are_0_and_its_last_level(levels: int) -> None:
    fsq, z = FSQ([levels]), torch.tensor([[-50.0], [50.0]])
    values, ids = fsq(z)
    assert ids.tolist() == [0, levels - 1] and torch.allclose(fsq.lookup(ids), values, atol=1e-5)
