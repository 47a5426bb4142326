"""Laws of the adapters."""

import torch

from modeling.adapters import AdapterConfig, Adapters
from modeling.layers.transformer import PhaseAttention


def filled(width: int = 16) -> PhaseAttention:
    torch.manual_seed(0)
    attention = PhaseAttention(width, 2)
    torch.nn.init.normal_(attention.proj.weight)
    return attention


def test_fresh_adapters_change_nothing() -> None:
    adapters = Adapters(16, AdapterConfig(phase_layers=2, phase_heads=2))
    frames, latents, phase = torch.rand(3, 1, 8, 8), torch.randn(2, 5, 4, 16), torch.rand(2, 5)
    assert torch.equal(adapters.to_rgb(frames), frames.expand(-1, 3, -1, -1))
    assert torch.equal(adapters.along_phases(latents, phase), latents)


def test_phase_attention_knows_no_first_phase() -> None:
    attention, x = filled(), torch.randn(2, 6, 3, 16)
    phase = (torch.arange(6) / 6).expand(2, -1)
    assert torch.allclose(attention(x.roll(1, 1), phase), attention(x, phase).roll(1, 1), atol=1e-5)


def test_phase_attention_tells_near_phases_from_far_ones() -> None:
    attention, x = filled(), torch.randn(1, 6, 3, 16)
    phase = (torch.arange(6) / 6)[None]
    assert not torch.allclose(attention(x, phase), attention(x, torch.zeros_like(phase)), atol=1e-3)


def test_positions_of_a_frame_do_not_mix() -> None:
    attention, x = filled(), torch.randn(1, 6, 3, 16)
    phase = (torch.arange(6) / 6)[None]
    before = attention(x, phase)
    x[:, :, 2] += 1
    assert torch.equal(attention(x, phase)[:, :, :2], before[:, :, :2])
