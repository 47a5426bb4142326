"""Rectified flow with x-prediction: path, training distribution, target weight and samplers; no network.

On the path x_t = t x + (1 - t) noise the network returns the clean image x̂. The loss is taken in velocity space,
where v = (x - x_t) / (1 - t), so that |v̂ - v| = |x̂ - x| / (1 - t).
A share of the samples is trained at t = 0 with the noise set to zero: there the network returns the posterior mean,
which makes one deterministic step the decode of highest PSNR.

Source: Liu et al., Flow Straight and Fast, 2022, eq. 1; Esser et al., Scaling Rectified Flow Transformers, 2024,
section 3.1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from utils.config.ranges import Fraction, Range
from utils.seeding import stable_seed

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass
class FlowConfig:
    """Distribution of flow times in training.

    Args:
        one_step_share: share of samples at t = 0 with zero noise.
        uniform_share: share of the other samples whose t is uniform, the fat tail of the logit-normal.
        logit_mean: mean of logit(t) of the rest.
        logit_std: standard deviation of logit(t) of the rest.
    """

    one_step_share: Fraction = 0.3
    uniform_share: Fraction = 0.1
    logit_mean: Annotated[float, Range(-20, 20)] = 0.0
    logit_std: Annotated[float, Range(0, 20)] = 1.0


MIN_REMAINING_TIME = 0.05


def draw_times(sample_seed: Tensor, config: FlowConfig) -> Tensor:
    """Flow time of each sample, a function of its seed alone, whatever the batch or rank.

    Args:
        sample_seed: (B,) int64 on the CPU, so that no device has to be waited for.
        config: the distribution.

    Returns:
        (B,) in [0, 1) on the CPU; 0 for one-step samples.
    """
    times = []
    for seed in sample_seed.tolist():
        generator = torch.Generator().manual_seed(seed)
        which, logit = torch.rand(3, generator=generator), torch.randn(1, generator=generator)
        tail = which[1] < config.uniform_share
        t = torch.where(tail, which[2], (logit * config.logit_std + config.logit_mean).sigmoid())
        times.append(t * (which[0] >= config.one_step_share))
    return torch.cat(times)


def draw_noise(sample_seed: Tensor, t: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """Noise of each sample, a function of its seed alone, whatever the batch or rank.

    Args:
        sample_seed: (B,) int64 on the CPU.
        t: (B,) flow times on the CPU.
        shape: shape of the images, (B, D, T, C, H, W).
        device: where the noise is drawn.

    Returns:
        Standard normal noise of `shape`; 0 for one-step samples.
    """
    noise = torch.zeros(shape, device=device)
    for seed, noisy, slices in zip(sample_seed.tolist(), (t > 0).tolist(), noise, strict=True):
        if noisy:  # slice by slice: the noise of a stack must not depend on how many padded slices follow it
            generator = torch.Generator(device).manual_seed(stable_seed(seed, "flow noise"))
            for frames in slices:
                frames.normal_(generator=generator)
    return noise


def along(t: Tensor, x: Tensor) -> Tensor:
    """Flow times (B,) shaped to multiply x (B, ...)."""
    return t.view(-1, *[1] * (x.ndim - 1))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """The path x_t = t x + (1 - t) noise; x, noise (B, ...), t (B,)."""
    return along(t, x) * x + (1 - along(t, x)) * noise


def velocity_weight(t: Tensor) -> Tensor:
    """What turns a squared error of x̂ into one of the velocity, 1 / max(1 - t, 0.05)^2, shaped like t."""
    return (1 - t).clamp(min=MIN_REMAINING_TIME) ** -2


def posterior_mean(predict: Predict, like: Tensor) -> Tensor:
    """One deterministic step from t = 0 with zero noise; `like` (B, ...) gives shape and dtype."""
    return predict(torch.zeros_like(like), torch.zeros(len(like), device=like.device))


def euler(predict: Predict, noise: Tensor, steps: int) -> Tensor:
    """Sample by Euler steps of equal length from t = 0 to 1.

    Args:
        predict: (x_t, t) -> x̂, all (B, ...) but t (B,).
        noise: (B, ...) standard normal.
        steps: number of steps, a network evaluation each.
    """
    x = noise
    for step in range(steps):
        x = x + velocity(predict, x, step / steps) / steps
    return x


def heun(predict: Predict, noise: Tensor, steps: int) -> Tensor:
    """Sample by Heun's method, of second order: two network evaluations a step, but one in the last.

    The last is Euler's, which lands on x̂: at t = 1 there is no velocity.

    Args:
        predict: (x_t, t) -> x̂, all (B, ...) but t (B,).
        noise: (B, ...) standard normal.
        steps: number of steps.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, algorithm 1.
    """
    x = noise
    for step in range(steps):
        slope = velocity(predict, x, step / steps)
        if step < steps - 1:
            slope = (slope + velocity(predict, x + slope / steps, (step + 1) / steps)) / 2
        x = x + slope / steps
    return x


SAMPLERS: dict[str, Callable[[Predict, Tensor, int], Tensor]] = {"euler": euler, "heun": heun}


def velocity(predict: Predict, x: Tensor, t: float) -> Tensor:
    """v = (x̂ - x_t) / (1 - t) at a time below 1."""
    return (predict(x, torch.full((len(x),), t, device=x.device)) - x) / (1 - t)


class SamplerOptions(NamedTuple):
    """How tokens are decoded.

    Args:
        steps: of the sampler; 1 with realism 0, which samples nothing.
        realism: a in [0, 1] of x̂ + a (sample - x̂), where x̂ is the one-step decode of highest PSNR.
        seed: of the sample's noise.
        sampler: `euler` or `heun`.
    """

    steps: int = 1
    realism: float = 0.0
    seed: int = 0
    sampler: str = "euler"

    def check(self, decoder: str) -> None:
        """Raise ValueError for options that contradict each other, or that a decoder does not have."""
        if not 0 <= self.realism <= 1:
            raise ValueError(f"realism = {self.realism}: expected 0 (highest PSNR) to 1 (a full sample)")
        if (self.steps > 1) != (self.realism > 0):
            raise ValueError(
                f"steps = {self.steps} with realism = {self.realism}: a sample needs both steps > 1 and realism > 0; "
                "the one-step decode is steps = 1 with realism = 0"
            )
        if self.sampler not in SAMPLERS:
            raise ValueError(f"sampler = {self.sampler!r}: expected {' or '.join(SAMPLERS)}")
        if self.realism > 0 and decoder != "dit":
            raise ValueError("realism needs model.decoder dit; this model decodes with the tokenizer's own decoder")


def decode(predict: Predict, like: Tensor, options: SamplerOptions, slices: Sequence[int]) -> Tensor:
    """The posterior mean, moved towards a sample by `realism`.

    Args:
        predict: (x_t, t) -> x̂, all (G, T, ...) but t (G,).
        like: (G, T, ...) gives shape, dtype and device.
        options: how to decode.
        slices: G numbers of the slices in their volumes, which seed the noise.
    """
    mean = posterior_mean(predict, like)
    if options.realism == 0:
        return mean
    sample = SAMPLERS[options.sampler](predict, seeded_noise(like, options.seed, slices), options.steps)
    return mean + options.realism * (sample - mean)


def seeded_noise(like: Tensor, seed: int, slices: Sequence[int]) -> Tensor:
    """Standard normal noise, a function of (seed, slice, phase), so that no batch and no chunk changes it.

    Args:
        like: (G, T, ...) gives shape, dtype and device.
        seed: seed of the whole decode.
        slices: G numbers of the slices in their volumes.
    """
    noise = like.new_empty(like.shape, dtype=torch.float32)
    for group, number in enumerate(slices):
        for phase in range(like.shape[1]):
            generator = torch.Generator(like.device).manual_seed(stable_seed(seed, number, phase))
            noise[group, phase].normal_(generator=generator)
    return noise.to(like.dtype)
