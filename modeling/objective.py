"""The weighted sum of the losses; each loss is one file of modeling/losses and one line of the recipe.

A loss gives a sum over what it counts. The count follows from the batch alone, so that counts are added over
micro-batches and ranks before the first backward pass: many micro-batches and many ranks have the loss of one batch.
Weight and warm-up of every loss are applied here, so that a loss file is its formula.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from modeling.prediction import Prediction
from utils.config import registry
from utils.config.ranges import Count, NotNegative
from utils.types import Batch


@dataclass
class LossOptions:
    """Options of every loss.

    Args:
        weight: of the loss in the sum.
        warmup_steps: the loss counts from this optimizer step on.
    """

    weight: NotNegative = 1.0
    warmup_steps: Count = 0


class Loss(Protocol):
    """A formula: the objective divides its sum by its count."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What the recipe must have, keys of `REMEDIES` in modeling/needs.py."""

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """How many elements of a batch count, a scalar.

        Args:
            batch: the samples.
            one_step: (B,) bool, True for samples that are decoded from tokens alone.
        """

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The sum over what counts, a scalar."""


class Term(NamedTuple):
    """A loss, its weight, and the optimizer step from which on it counts."""

    loss: Loss
    weight: float
    warmup_steps: int


class Objective(nn.Module):
    """Losses by name, in the order of the recipe.

    A loss that is a module, such as one with a projection head, has parameters of its own: they are trained and saved
    with the run, and are no part of the model.
    """

    def __init__(self, terms: dict[str, Term]) -> None:
        super().__init__()
        self.terms = terms
        self.needs = {name: term.loss.needs for name, term in terms.items()}
        modules = {name: term.loss for name, term in terms.items() if isinstance(term.loss, nn.Module)}
        self.learned = nn.ModuleDict(modules)

    def counts(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """What each loss counts on this rank, before any pass of the model, (terms,) float32; 0 during its warm-up."""
        zero = torch.zeros((), device=batch.image.device)
        active = (step >= term.warmup_steps for term in self.terms.values())
        counts = [term.loss.count(batch, one_step) if on else zero
                  for term, on in zip(self.terms.values(), active, strict=True)]  # fmt: skip
        return torch.stack([count.to(zero) for count in counts])

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """The sums of all losses on this rank, (terms,); 0 during a loss's warm-up."""
        zero = torch.zeros((), device=batch.image.device)
        sums = [term.loss(prediction, batch) if prediction.step >= term.warmup_steps else zero
                for term in self.terms.values()]  # fmt: skip
        return torch.stack([value.float() for value in sums])

    def total(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The weighted sum of the means; a loss that counts nothing adds zero."""
        weights = sums.new_tensor([term.weight for term in self.terms.values()])
        return (weights * sums / counts.clamp(min=1)).sum()


def build_objective(losses: dict[str, dict[str, Any]]) -> Objective:
    """Build the losses that a recipe names.

    Args:
        losses: {file of modeling/losses: {"weight": 1.0, "warmup_steps": 0, ...its options}}.

    Raises:
        ValueError: for an unknown loss or option, or when there is none.
    """
    if not losses:
        raise ValueError(f"losses is empty: name at least one of {', '.join(registry.names('modeling.losses'))}")
    terms = {}
    for name, section in losses.items():
        loss, options = registry.build_with_options("modeling.losses", name, section or {}, f"losses.{name}")
        terms[name] = Term(loss, options.weight, options.warmup_steps)
    return Objective(terms)


def pixels_in_field(batch: Batch, chosen: Tensor | None = None) -> Tensor:
    """How many pixels of all phases lie in the field.

    Args:
        batch: the samples.
        chosen: (B,) bool, samples that count; all when not given.
    """
    pixels = batch.field.sum((1, 2, 3)) * batch.phase.shape[1]
    return pixels.sum() if chosen is None else (pixels * chosen).sum()


def sum_in_field(error: Tensor, field: Tensor, chosen: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Sum of a pixel error over the field.

    Args:
        error: (B, D, T, 1, H, W).
        field: (B, D, H, W) bool.
        chosen: (B,) bool, samples that count; all when not given.
        weight: (B, D, H, W) of mean 1 over a field, as `heart_weight` gives; 1 when not given.
    """
    counted = field if chosen is None else field & chosen.view(-1, 1, 1, 1)
    factor = counted.to(error) if weight is None else counted * weight.to(error)
    return (error * factor[:, :, None, None]).sum()
