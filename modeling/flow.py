"""Rectified flow with x-prediction: path, training distribution, target weight and samplers; no network.

On the path x_t = t x + (1 - t) noise the network returns the clean image x̂. The loss is taken in velocity space,
where v = (x - x_t) / (1 - t), so that |v̂ - v| = |x̂ - x| / (1 - t).
A share of the samples is trained at t = 0 with the noise set to zero: there the network returns the posterior mean,
which makes one deterministic step the decode of highest PSNR.

Source: Liu et al., Flow Straight and Fast, 2022, eq. 1; Esser et al., Scaling Rectified Flow Transformers, 2024,
section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

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

    one_step_share: float = 0.3
    uniform_share: float = 0.1
    logit_mean: float = 0.0
    logit_std: float = 1.0


MIN_REMAINING_TIME = 0.05


def draw(sample_seed: Tensor, shape: torch.Size, config: FlowConfig) -> tuple[Tensor, Tensor]:
    """Flow time and noise of each sample, a function of its seed alone, whatever the batch or rank.

    Args:
        sample_seed: (B,) int64.
        shape: shape of the images, (B, C, H, W, D, T).
        config: the distribution.

    Returns:
        (B,) flow times in [0, 1) and noise of `shape`; both zero for one-step samples.
    """
    times, noises = [], []
    for seed in sample_seed.tolist():
        generator = torch.Generator(sample_seed.device).manual_seed(seed)
        which = torch.rand(3, generator=generator, device=sample_seed.device)
        logit = torch.randn(1, generator=generator, device=sample_seed.device) * config.logit_std + config.logit_mean
        t = torch.where(which[1] < config.uniform_share, which[2], logit.sigmoid())
        channels, height, width, slices, phases = shape[1:]
        plane = (channels, height, width, phases)
        # Slice by slice: the noise of a stack must not depend on how many padded slices its batch puts behind it.
        planes = [torch.randn(plane, generator=generator, device=sample_seed.device) for _ in range(slices)]
        noise = torch.stack(planes, dim=3)
        noisy = which[0] >= config.one_step_share
        times.append(t * noisy)
        noises.append(noise * noisy)
    return torch.cat(times), torch.stack(noises)


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
        steps: number of network evaluations.
    """
    x = noise
    for step in range(steps):
        t, remaining = step / steps, 1 - step / steps
        clean = predict(x, torch.full((len(x),), t, device=x.device))
        x = x + (clean - x) * (1 / steps / remaining)
    return x


def seeded_noise(like: Tensor, seed: int, first: int) -> Tensor:
    """Standard normal noise, one generator a slice, so that batching does not change it.

    Args:
        like: (G, ...) gives shape, dtype and device.
        seed: seed of the whole decode.
        first: number of the first slice of this part.
    """
    parts = []
    for index in range(first, first + len(like)):
        generator = torch.Generator(like.device).manual_seed((seed * 1_000_003 + index) % 2**63)
        parts.append(torch.randn(like.shape[1:], generator=generator, device=like.device, dtype=torch.float32))
    return torch.stack(parts).to(like.dtype)
