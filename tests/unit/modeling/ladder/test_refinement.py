"""A refinement corrects decoded components in units of the step; untrained, it changes nothing."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modeling.flow import SamplerOptions
from modeling.titok import TiTok
from tests.ladders import as_input, smooth_cine
from tests.tiny import REFINEMENT, tiny_config
from utils.config import registry

CONV = {**REFINEMENT, "components": 3}
DIT = {"name": "dit", "width": 16, "layers": 1, "heads": 2, "patch": 4, "components": 3}
BOTH = pytest.mark.parametrize("options", [CONV, DIT], ids=["conv", "dit"])
STEP, INDEX = 0.25, 256
SAMPLE = SamplerOptions(steps=3, realism=1.0, seed=4, sampler="euler")


def build(options: dict[str, Any], filled: bool = True) -> Any:
    """A refinement; its layers of zeros are filled, so that it has an effect."""
    torch.manual_seed(0)
    network: nn.Module = registry.build("modeling.ladder.refinement", options["name"], options, "refinement")
    with torch.no_grad():
        for parameter in network.parameters():
            if filled and not parameter.any():
                parameter.normal_(std=0.1)
    return network.eval().requires_grad_(False)


def components(slices: int = 2, rank: int = 5, height: int = 11, width: int = 14) -> Tensor:
    return torch.randn(slices, rank, height, width, generator=torch.Generator().manual_seed(1))


@BOTH
def test_untrained_it_changes_nothing(options: dict[str, Any]) -> None:
    x = components()
    assert torch.equal(build(options, filled=False)(x, STEP, INDEX), x)
    assert not torch.allclose(build(options)(x, STEP, INDEX), x, atol=1e-3)


@BOTH
def test_components_beyond_the_first_ones_pass_unchanged(options: dict[str, Any]) -> None:
    x = components()
    refined = build(options)(x, STEP, INDEX)
    assert torch.equal(refined[:, 3:], x[:, 3:])
    assert all((refined[:, r] != x[:, r]).any() for r in range(3))
    other = x.clone()
    other[:, 3:] += 1
    torch.testing.assert_close(build(options)(other, STEP, INDEX)[:, :3], refined[:, :3])


@BOTH
@pytest.mark.parametrize("rank", [1, 2])
def test_a_cine_of_fewer_components_counts_the_missing_ones_as_zero(options: dict[str, Any], rank: int) -> None:
    x = components()
    x[:, rank:] = 0
    whole = build(options)(x, STEP, INDEX)
    torch.testing.assert_close(build(options)(x[:, :rank], STEP, INDEX), whole[:, :rank])


@BOTH
def test_it_works_in_units_of_the_step(options: dict[str, Any]) -> None:
    x = components()
    refined = build(options)(x, STEP, INDEX)
    torch.testing.assert_close(build(options)(8 * x, 8 * STEP, INDEX), 8 * refined, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(build(options)(x, STEP, INDEX - 100), refined, atol=1e-4)


@BOTH
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (5, 9), (16, 3)])
def test_it_works_at_any_size_and_each_slice_alone(options: dict[str, Any], height: int, width: int) -> None:
    network, x = build(options), components(3, 2, height, width)
    refined = network(x, STEP, INDEX)
    assert refined.shape == x.shape
    for z in range(3):
        torch.testing.assert_close(network(x[z : z + 1], STEP, INDEX), refined[z : z + 1])


@BOTH
def test_an_untrained_one_leaves_the_whole_error_and_a_right_one_less(options: dict[str, Any]) -> None:
    original, random = components(2, 3), torch.Generator().manual_seed(2)
    decoded = original + STEP * 0.3 * torch.randn(original.shape, generator=random)
    network = build(options, filled=False)
    seed = next(n for n in range(50) if float(network.remaining(decoded, original, STEP, INDEX, n)) < 1.001)
    assert float(network.remaining(decoded, original, STEP, INDEX, seed)) == pytest.approx(1, rel=1e-4)
    network.requires_grad_(True)
    optimizer, left = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = network.remaining(decoded, original, STEP, INDEX, seed)
        loss.backward()
        optimizer.step()
        left.append(float(loss.detach()))
    assert left[-1] < 0.8 * left[0]
    if options is CONV:  # its remaining error is the error of what it decodes
        refined = network(decoded, STEP, INDEX).detach()
        share = (refined - original).square().sum() / (decoded - original).square().sum()
        assert float(network.remaining(decoded, original, STEP, INDEX, 0).detach()) == pytest.approx(float(share))


@BOTH
def test_what_it_leaves_follows_from_the_seed(options: dict[str, Any]) -> None:
    network, original = build(options), components(2, 3)
    decoded = original + 0.1
    values = [float(network.remaining(decoded, original, STEP, INDEX, seed)) for seed in (*range(8), *range(8))]
    assert values[:8] == values[8:]
    assert (len(set(values)) == 1) == (options is CONV)


def test_a_sample_follows_from_its_seed_and_is_another_picture() -> None:
    network, x = build(DIT), components()
    mean = network(x, STEP, INDEX)
    first, again = (network(x, STEP, INDEX, SAMPLE) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, mean, atol=1e-3)
    assert not torch.allclose(network(x, STEP, INDEX, SAMPLE._replace(seed=5)), first, atol=1e-3)
    near = network(x, STEP, INDEX, SAMPLE._replace(realism=1e-5))
    assert torch.allclose(near, mean, atol=1e-3)


def test_a_ladder_with_a_dit_samples_from_tokens_alone() -> None:
    config = tiny_config(layout="ladder")
    config.ladder.refinement = DIT
    torch.manual_seed(0)
    model = TiTok(config).eval()
    with torch.no_grad():
        for parameter in model.ladder.refinement.parameters():
            parameter.normal_(std=0.1)
    tokens = model.encode(as_input(smooth_cine(3, 4, 19, 14)), step=0.3)
    mean = model.decode_tokens(tokens)
    first, again = (model.decode_tokens(tokens, steps=2, realism=0.7, seed=3) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, mean)
    assert not torch.equal(model.decode_tokens(tokens, steps=2, realism=0.7, seed=4), first)
    assert first.min() >= 0 and first.max() <= 1


def test_no_refinement_is_built_where_none_is_chosen() -> None:
    config = tiny_config(layout="ladder")
    config.ladder.refinement = {"name": "none"}
    model = TiTok(config).eval()
    assert model.ladder.refinement is None
    tokens = model.encode(as_input(smooth_cine()), psnr=40.0)
    assert model.decode_tokens(tokens).shape == (1, 1, 24, 28, 2, 5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "conv", "width": 0}, "width"),
        ({"name": "dit", "width": 20, "heads": 2}, "multiple of 4"),
        ({"name": "conv", "layers": 2}, "layers"),
        ({"name": "blur"}, "refinement"),
    ],
)
def test_options_that_a_refinement_does_not_have_are_refused(options: dict[str, Any], words: str) -> None:
    config = tiny_config(layout="ladder")
    config.ladder.refinement = options
    with pytest.raises(ValueError, match=words):
        TiTok(config)
