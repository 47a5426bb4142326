"""Laws of the DiT decoder."""

from typing import Any

import pytest
import torch

from modeling.dit import DiT, DiTConfig
from tests.tiny import tiny_model

SIZE = {"width": 32, "num_layers": 2, "num_heads": 2}


def make(anatomy_width: int = 0, filled: bool = True, **options: Any) -> DiT:
    torch.manual_seed(0)
    config = DiTConfig(**{"size": dict(SIZE), "patch_size": 8, "head_channels": 4, **options})
    dit = DiT(
        32, num_tokens=8, token_size=6, token_rms=1.0, anatomy_tokens=3, anatomy_width=anatomy_width, config=config
    )
    if filled:
        with torch.no_grad():
            for parameter in dit.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.2)
    return dit.eval()


def inputs(groups: int = 2, phases: int = 5) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    phase = (torch.arange(phases) / phases).expand(groups, -1)
    x, context = torch.randn(groups, phases, 1, 32, 32), torch.randn(groups, phases, 8, 6)
    return x, torch.rand(groups), context, torch.rand(groups), phase


def test_a_fresh_decoder_returns_mid_gray_everywhere() -> None:
    x, t, context, position, phase = inputs()
    assert not make(filled=False)(x, t, context, position, phase).any()


def test_starting_the_cycle_elsewhere_only_starts_the_result_elsewhere() -> None:
    dit = make()
    x, t, context, position, phase = inputs()
    whole = dit(x, t, context, position, phase)
    rolled = dit(x.roll(2, 1), t, context.roll(2, 1), position, phase.roll(2, 1))
    assert torch.allclose(rolled, whole.roll(2, 1), atol=1e-5)


def test_the_phases_of_a_slice_see_one_another_and_slices_do_not() -> None:
    dit = make()
    x, t, context, position, phase = inputs()
    whole = dit(x, t, context, position, phase)
    context = context.clone()
    context[0, 1] += 1
    changed = (dit(x, t, context, position, phase) - whole).abs().amax(dim=(2, 3, 4))
    assert (changed[0] > 1e-6).all() and not changed[1].any()


def test_single_frames_decode_without_neighbours() -> None:
    x, t, context, position, phase = inputs(phases=1)
    assert make()(x, t, context, position, phase).shape == (2, 1, 1, 32, 32)


def test_flow_time_slice_and_tokens_each_matter() -> None:
    dit = make()
    x, t, context, position, phase = inputs()
    whole = dit(x, t, context, position, phase)
    for changed in (
        dit(x, 1 - t, context, position, phase),
        dit(x, t, context.flip(2), position, phase),
        dit(x, t, context, 1 - position, phase),
    ):
        assert (changed - whole).abs().max() > 1e-5


def test_anatomy_reaches_the_decoder_only_through_its_gate() -> None:
    x, t, context, position, phase = inputs()
    anatomy = torch.randn(2, 3, 7, requires_grad=True)
    closed = make(anatomy_width=7, filled=False)
    with torch.no_grad():
        closed.head[-1].weight.normal_()
    without = closed(x, t, context, position, phase, torch.zeros_like(anatomy))
    assert torch.equal(closed(x, t, context, position, phase, anatomy), without)
    opened = make(anatomy_width=7)
    opened(x, t, context, position, phase, anatomy).square().sum().backward()
    assert anatomy.grad is not None and anatomy.grad.abs().sum() > 0
    assert [block.cross_attn is not None for block in opened.blocks] == [False, True]


def test_recomputing_blocks_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        dit = make(gradient_checkpointing=checkpointing)
        dit(*inputs()).square().mean().backward()
        gradients.append(dit.x_embedder.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": "XXL"}, "expected S, B, L"),
        ({"patch_size": 5}, "not a multiple of dit.patch_size"),
        ({"size": {"width": 30, "num_layers": 1, "num_heads": 4}}, "not a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**options)


@pytest.mark.parametrize(("size", "millions"), [("S", 35), ("B", 137), ("L", 468)])
def test_named_sizes_have_the_parameters_that_the_readme_states(size: str, millions: int) -> None:
    with torch.device("meta"):
        dit = DiT(256, 32, 12, 12**-0.5, 8, anatomy_width=64, config=DiTConfig(size=size))
    assert abs(sum(p.numel() for p in dit.parameters()) / 1e6 - millions) < 0.5


def test_every_patch_reads_all_tokens_before_the_first_block() -> None:
    dit = make()
    dit.blocks = torch.nn.ModuleList()
    x, t, context, position, phase = inputs(groups=1, phases=1)
    before = dit(x, t, context, position, phase)
    for token in range(8):
        other = context.clone()
        other[:, :, token] += 1
        patches = (dit(x, t, other, position, phase) - before).abs().view(4, 8, 4, 8).amax((1, 3))
        assert (patches > 0).all()


def test_rotation_angles_keep_full_precision_when_the_model_is_cast() -> None:
    model = tiny_model()
    exact = model.dit.angles.table.clone()
    cast = model.to(torch.bfloat16).dit
    assert cast.blocks[0].phase_attn.orders.table.dtype == torch.float32
    assert cast.angles.table.dtype == torch.float32 and torch.equal(cast.angles.table, exact)
    assert cast.token_embed.dtype == torch.bfloat16
    assert model.to(torch.float32).dit.angles.table.dtype == torch.float32
