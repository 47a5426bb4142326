"""Trainable parameters, optimizer groups and learning rate, as functions of the recipe and the step."""

import math
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from torch import nn

from utils.config.ranges import BelowOne, Count, Fraction, NotNegative


@dataclass
class OptimizerConfig:
    """Options of AdamW; weight decay is not applied to biases and norms.

    Args:
        learning_rate: after the warm-up.
        beta1: decay of the mean gradient.
        beta2: decay of the mean squared gradient.
        weight_decay: of matrices.
        warmup_steps: number of steps of the linear increase to `learning_rate`.
        end_fraction: learning rate at the last step, as a fraction of `learning_rate`.
        scale: {glob: factor of the learning rate}, see `names`; the first glob that matches a parameter is used.
    """

    learning_rate: NotNegative = 1e-4
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.99
    weight_decay: NotNegative = 0.01
    warmup_steps: Count = 500
    end_fraction: Fraction = 0.05
    scale: dict[str, NotNegative] = field(default_factory=dict)


def learning_rate(step: int, optimizer: OptimizerConfig, max_steps: int) -> float:
    """Linear warm-up, then cosine decay to `end_fraction`; a function of the step only."""
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    progress = (step - optimizer.warmup_steps) / max(1, max_steps - optimizer.warmup_steps)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
    return optimizer.learning_rate * (optimizer.end_fraction + (1 - optimizer.end_fraction) * cosine)


def names(glob: str, name: str) -> bool:
    """Whether a glob matches a parameter, or a module that contains it.

    `8-11` between dots means the numbers 8 to 11: `dit.blocks.8-11` matches all parameters of these four blocks.
    """
    parts = []
    for part in glob.split("."):
        ends = re.fullmatch(r"([0-9]+)-([0-9]+)", part)
        parts.append([str(n) for n in range(int(ends[1]), int(ends[2]) + 1)] if ends else [part])
    written_out = (".".join(choice) for choice in product(*parts))
    return any(fnmatchcase(name, one) or fnmatchcase(name, f"{one}.*") for one in written_out)


def select_trainable(model: nn.Module, globs: list[str]) -> dict[str, nn.Parameter]:
    """Freeze all parameters that no glob matches, and put completely frozen components in eval mode.

    Raises:
        ValueError: for a glob without a match.
    """
    known = [name for name, _ in model.named_parameters()]
    for glob in globs:
        if not any(names(glob, name) for name in known):
            raise ValueError(f"training.trainable: {glob!r} matches no parameter; use globs as {first_parts(known)}")
    chosen = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(names(glob, name) for glob in globs))
        if parameter.requires_grad:
            chosen[name] = parameter
    if not chosen:
        raise ValueError(f"training.trainable is empty; give globs such as {first_parts(known)}")
    for child in model.children():
        child.train(any(parameter.requires_grad for parameter in child.parameters()))
    return chosen


def parameter_groups(trainable: dict[str, nn.Parameter], optimizer: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters by weight decay and by scale of the learning rate.

    Raises:
        ValueError: for a scale without a trained parameter.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    unused = set(optimizer.scale)
    for name, parameter in trainable.items():
        glob = next((glob for glob in optimizer.scale if names(glob, name)), None)
        unused.discard(glob)
        decay = optimizer.weight_decay if parameter.ndim >= 2 else 0.0
        groups.setdefault((decay, float(optimizer.scale[glob]) if glob else 1.0), []).append(parameter)
    if unused:
        raise ValueError(f"optimizer.scale: {', '.join(sorted(unused))} matches no trained parameter; correct it")
    return [{"params": p, "weight_decay": decay, "scale": scale} for (decay, scale), p in groups.items()]


def first_parts(known: list[str]) -> str:
    """The components of parameter names, as globs."""
    return ", ".join(sorted({f"{name.split('.')[0]}.*" for name in known}))
