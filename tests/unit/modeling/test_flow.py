"""Laws of the flow: path, training distribution, samplers."""

import pytest
import torch

from modeling import flow
from modeling.flow import FlowConfig

SHAPE = (1, 4, 4, 1, 2)


def draw(seeds: torch.Tensor, shape: torch.Size, config: FlowConfig) -> tuple[torch.Tensor, torch.Tensor]:
    t = flow.draw_times(seeds, config)
    return t, flow.draw_noise(seeds, t, shape, torch.device("cpu"))


def test_time_and_noise_of_a_sample_follow_from_its_seed_alone() -> None:
    seeds = torch.tensor([11, 22, 33])
    t, noise = draw(seeds, torch.Size((3, *SHAPE)), FlowConfig())
    t_alone, noise_alone = draw(seeds[1:2], torch.Size((1, *SHAPE)), FlowConfig())
    assert torch.equal(t[1:2], t_alone) and torch.equal(noise[1:2], noise_alone)


def test_the_noise_of_a_slice_does_not_depend_on_the_slices_behind_it() -> None:
    seeds, config = torch.tensor([11]), FlowConfig(one_step_share=0.0)
    (_, noise), (_, padded) = (draw(seeds, torch.Size((1, d, 3, 1, 5, 5)), config) for d in (2, 4))
    assert torch.equal(padded[:, :2], noise)
    assert not torch.equal(padded[:, 2:], noise)


def test_the_stated_share_of_samples_is_one_step_with_zero_noise() -> None:
    t, noise = draw(torch.arange(2000), torch.Size((2000, *[1] * 5)), FlowConfig(one_step_share=0.3))
    one_step = t == 0
    assert 0.26 < one_step.float().mean() < 0.34
    assert not noise[one_step].any() and (noise[~one_step] != 0).all()
    assert (t >= 0).all() and (t < 1).all()


def test_the_path_runs_from_noise_to_image() -> None:
    x, noise = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    assert torch.equal(flow.interpolate(x, noise, torch.zeros(2)), noise)
    assert torch.equal(flow.interpolate(x, noise, torch.ones(2)), x)


def test_the_weight_turns_an_image_error_into_a_velocity_error() -> None:
    x, guess, noise = torch.randn(3, 1, *SHAPE)
    t = torch.tensor([0.3])
    x_t = flow.interpolate(x, noise, t)
    velocity, guessed = (x - x_t) / (1 - t), (guess - x_t) / (1 - t)
    weighted = (guess - x).square() * flow.velocity_weight(t)
    assert torch.allclose(weighted, (guessed - velocity).square(), rtol=1e-4, atol=1e-5)
    assert torch.allclose(flow.velocity_weight(torch.ones(1)), flow.velocity_weight(torch.tensor([0.95])))


@pytest.mark.parametrize("sampler", flow.SAMPLERS)
def test_a_sampler_with_a_network_that_knows_the_image_ends_at_the_image(sampler: str) -> None:
    x, noise = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    for steps in (1, 2, 7):
        assert torch.allclose(flow.SAMPLERS[sampler](lambda _, __: x, noise, steps), x, atol=1e-5)


def test_heun_comes_nearer_to_the_exact_flow_than_euler_at_as_many_network_evaluations() -> None:
    mean, spread = 0.7, 0.4  # of a Gaussian image, whose posterior mean and flow are known in closed form

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = flow.along(t, x)
        return mean + t * spread**2 * (x - t * mean) / (t**2 * spread**2 + (1 - t) ** 2)

    noise = torch.randn(64, 1, dtype=torch.float64)
    exact = mean + spread * noise
    euler, heun = flow.euler(predict, noise, 31), flow.heun(predict, noise, 16)
    assert (heun - exact).abs().max() < (euler - exact).abs().max() / 2


def test_the_posterior_mean_is_one_call_without_noise_at_time_zero() -> None:
    calls = []

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append((x.any().item(), t.any().item()))
        return x + 0.25

    assert torch.equal(flow.posterior_mean(predict, torch.randn(2, 3)), torch.full((2, 3), 0.25))
    assert calls == [(False, False)]


def test_noise_is_a_function_of_seed_slice_and_phase_alone() -> None:
    like = torch.empty(4, 3, 2, 2)
    whole = flow.seeded_noise(like, 5, range(4))
    parts = torch.cat([flow.seeded_noise(like[:1], 5, [0]), flow.seeded_noise(like[1:], 5, [1, 2, 3])])
    assert torch.equal(whole, parts)
    assert torch.equal(whole[:, :2], flow.seeded_noise(like[:, :2], 5, range(4)))
    assert not torch.equal(whole, flow.seeded_noise(like, 6, range(4)))
    assert len({float(value) for value in whole.flatten()}) == whole.numel()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (flow.SamplerOptions(realism=2.0, steps=2), "realism = 2.0"),
        (flow.SamplerOptions(steps=3), "needs both"),
        (flow.SamplerOptions(realism=0.5), "needs both"),
        (flow.SamplerOptions(2, 0.5, 0, "dpm"), "expected euler or heun"),
    ],
)
def test_knobs_that_contradict_each_other_are_refused(options: flow.SamplerOptions, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        options.check("dit")


def test_the_tokenizers_own_decoder_does_not_sample() -> None:
    with pytest.raises(ValueError, match=r"needs a DiT"):
        flow.SamplerOptions(2, 0.5).check("titok")
