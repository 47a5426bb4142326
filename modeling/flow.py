"""Rectified flow with x-prediction: path, training distribution, target weight and samplers; no network.

On the path x_t = t x + (1 - t) noise the network predicts the clean image x̂. The loss is computed in velocity space,
where v = (x - x_t) / (1 - t), so that |v̂ - v| = |x̂ - x| / (1 - t).
A fraction of the samples is trained at t = 0 with zero noise. There the network predicts the posterior mean, so one
deterministic step gives the highest PSNR.

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
        one_step_share: fraction of samples at t = 0 with zero noise.
        uniform_share: fraction of the other samples with uniform t, so that extreme t also occur.
        logit_mean: mean of logit(t) of the rest.
        logit_std: standard deviation of logit(t) of the rest.
    """

    one_step_share: Fraction = 0.3
    uniform_share: Fraction = 0.1
    logit_mean: Annotated[float, Range(-20, 20)] = 0.0
    logit_std: Annotated[float, Range(0, 20)] = 1.0


MIN_REMAINING_TIME = 0.05


def draw_times(sample_seed: Tensor, config: FlowConfig) -> Tensor:
    """Draw the flow time of each sample, a function of its seed alone, independent of batch and rank.

    Args:
        sample_seed: (B,) int64 on the CPU, so that no device synchronisation is needed.
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
    """Draw the noise of each sample, a function of its seed alone, independent of batch and rank.

    Args:
        sample_seed: (B,) int64 on the CPU.
        t: (B,) flow times on the CPU.
        shape: shape of the images, (B, D, T, C, H, W).
        device: device of the noise.

    Returns:
        Standard normal noise of `shape`; 0 for one-step samples.
    """
    noise = torch.zeros(shape, device=device)
    for seed, noisy, slices in zip(sample_seed.tolist(), (t > 0).tolist(), noise, strict=True):
        if noisy:  # slice by slice, so that the noise does not depend on the number of padded slices
            generator = torch.Generator(device).manual_seed(stable_seed(seed, "flow noise"))
            for frames in slices:
                frames.normal_(generator=generator)
    return noise


def along(t: Tensor, x: Tensor) -> Tensor:
    """Reshape flow times (B,) for products with x (B, ...)."""
    return t.view(-1, *[1] * (x.ndim - 1))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return the point x_t = t x + (1 - t) noise of the path; x, noise (B, ...), t (B,)."""
    return along(t, x) * x + (1 - along(t, x)) * noise


def velocity_weight(t: Tensor) -> Tensor:
    """Return the factor from squared error of x̂ to squared error of velocity, 1 / max(1 - t, 0.05)^2, shaped like t."""
    return (1 - t).clamp(min=MIN_REMAINING_TIME) ** -2


def posterior_mean(predict: Predict, like: Tensor) -> Tensor:
    """Decode in one deterministic step from t = 0 with zero noise; `like` (B, ...) defines shape and dtype."""
    return predict(torch.zeros_like(like), torch.zeros(len(like), device=like.device))


def euler(predict: Predict, noise: Tensor, steps: int) -> Tensor:
    """Sample by Euler steps of equal length from t = 0 to 1.

    Args:
        predict: (x_t, t) -> x̂, all (B, ...) but t (B,).
        noise: (B, ...) standard normal.
        steps: number of steps, with one network evaluation each.
    """
    x = noise
    for step in range(steps):
        x = x + velocity(predict, x, step / steps) / steps
    return x


def heun(predict: Predict, noise: Tensor, steps: int) -> Tensor:
    """Sample by Heun's method (second order): two network evaluations per step, one in the last.

    The last step is an Euler step, because the velocity is undefined at t = 1.

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
    """Options of the sampler.

    Args:
        steps: number of sampler steps; 1 with realism 0, for no sampling.
        realism: a in [0, 1]; the result is x̂ + a (sample - x̂), where x̂ is the one-step decode with the highest PSNR.
        seed: seed of the noise.
        sampler: `euler` or `heun`.
    """

    steps: int = 1
    realism: float = 0.0
    seed: int = 0
    sampler: str = "euler"

    def check(self, decoder: str) -> None:
        """Raise a ValueError for options that contradict each other or do not apply to the decoder."""
        if self.steps < 1 or not 0 <= self.seed < 1 << 63:
            raise ValueError(
                f"steps = {self.steps}, seed = {self.seed}: expected steps from 1, and a seed from 0 to 2^63 - 1"
            )
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
            raise ValueError("realism > 0 needs a DiT; this model has none: leave steps and realism out")


def decode(predict: Predict, like: Tensor, options: SamplerOptions, slices: Sequence[int]) -> Tensor:
    """The posterior mean, moved towards a sample by `realism`.

    Args:
        predict: (x_t, t) -> x̂, all (G, T, ...) but t (G,).
        like: (G, T, ...) defines shape, dtype and device.
        options: options of the sampler.
        slices: G indices of the slices in their volumes, for the seed of the noise.
    """
    mean = posterior_mean(predict, like)
    if options.realism == 0:
        return mean
    sample = SAMPLERS[options.sampler](predict, seeded_noise(like, options.seed, slices), options.steps)
    return mean + options.realism * (sample - mean)


def seeded_noise(like: Tensor, seed: int, slices: Sequence[int]) -> Tensor:
    """Draw standard normal noise, a function of (seed, slice, phase), independent of batch and chunk.

    Args:
        like: (G, T, ...) defines shape, dtype and device.
        seed: seed of the decode.
        slices: G indices of the slices in their volumes.
    """
    noise = like.new_empty(like.shape, dtype=torch.float32)
    for group, number in enumerate(slices):
        for phase in range(like.shape[1]):
            generator = torch.Generator(like.device).manual_seed(stable_seed(seed, number, phase))
            noise[group, phase].normal_(generator=generator)
    return noise.to(like.dtype)
