"""What trains, in which groups, at which rate: pure functions of the recipe and the step."""

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn


@dataclass
class OptimizerConfig:
    """AdamW; weight decay spares biases and norms. `scale` multiplies the rate of parameters by glob, first match."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.01
    warmup_steps: int = 500
    end_fraction: float = 0.05
    scale: dict[str, Any] = field(default_factory=dict)


def learning_rate(step: int, optimizer: OptimizerConfig, max_steps: int) -> float:
    """Linear warm-up, then a cosine to `end_fraction`: a pure function of the step."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    progress = (step - optimizer.warmup_steps) / max(1, max_steps - optimizer.warmup_steps)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
    return optimizer.learning_rate * (optimizer.end_fraction + (1 - optimizer.end_fraction) * cosine)


def select_trainable(model: nn.Module, globs: list[str]) -> dict[str, nn.Parameter]:
    """Freeze all but the parameters that the globs name, and put fully frozen components in eval mode.

    Raises:
        ValueError: for a glob that names no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise ValueError(f"training.trainable: {glob!r} names no parameter; names begin with {first_parts(names)}")
    chosen = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, glob) for glob in globs))
        if parameter.requires_grad:
            chosen[name] = parameter
    if not chosen:
        raise ValueError(f"training.trainable is empty: name parameters by globs such as {first_parts(names)}")
    for child in model.children():
        child.train(any(parameter.requires_grad for parameter in child.parameters()))
    return chosen


def parameter_groups(trainable: dict[str, nn.Parameter], optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters by weight decay and by scale of the learning rate.

    Raises:
        ValueError: for a scale that no trained parameter takes.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(optimizer.scale)
    for name, parameter in trainable.items():
        glob = next((glob for glob in optimizer.scale if fnmatchcase(name, glob)), None)
        unused.discard(glob)
        decay = optimizer.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((decay, float(optimizer.scale[glob]) if glob else 1.0), []).append(parameter)
    if unused:
        raise ValueError(f"optimizer.scale: {', '.join(sorted(unused))} names no parameter that trains")
    return [{"params": p, "weight_decay": decay, "scale": scale} for (decay, scale), p in groups.items()]


def first_parts(names: list[str]) -> str:
    """The components of parameter names, as globs."""
    return ", ".join(sorted({f"{name.split('.')[0]}.*" for name in names}))
