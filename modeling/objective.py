"""The weighted sum of the losses; each loss is one file of modeling/losses and one line of the recipe.

A loss returns a sum over the elements that it counts. The count depends on the batch alone, so counts are added over
micro-batches and ranks before the first backward pass. The loss is therefore independent of the number of micro-batches
and ranks. Weight and warm-up are applied here, so a loss file contains only its formula.
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
        weight: weight of the loss in the sum.
        warmup_steps: optimizer step from which on the loss is used.
    """

    weight: NotNegative = 1.0
    warmup_steps: Count = 0


class Loss(Protocol):
    """A loss; the objective divides its sum by its count."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Required parts of the recipe, keys of `REMEDIES` in modeling/needs.py."""

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of counted elements of a batch, a scalar.

        Args:
            batch: the samples.
            one_step: (B,) bool, True for samples that are decoded from tokens alone.
        """

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the sum over the counted elements, a scalar."""


class Term(NamedTuple):
    """A loss, its weight, and the optimizer step from which on it is used."""

    loss: Loss
    weight: float
    warmup_steps: int


class Objective(nn.Module):
    """Losses by name, in the order of the recipe.

    A loss can be a module with parameters, such as a projection head. They are trained and saved with the run, but are
    not part of the model.
    """

    def __init__(self, terms: dict[str, Term]) -> None:
        super().__init__()
        self.terms = terms
        self.needs = {name: term.loss.needs for name, term in terms.items()}
        modules = {name: term.loss for name, term in terms.items() if isinstance(term.loss, nn.Module)}
        self.learned = nn.ModuleDict(modules)

    def counts(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """Return the count of each loss on this rank, before the model runs, (terms,) float32; 0 during warm-up."""
        zero = torch.zeros((), device=batch.image.device)
        active = (step >= term.warmup_steps for term in self.terms.values())
        counts = [term.loss.count(batch, one_step) if on else zero
                  for term, on in zip(self.terms.values(), active, strict=True)]  # fmt: skip
        return torch.stack([count.to(zero) for count in counts])

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the sums of all losses on this rank, (terms,); 0 during warm-up."""
        zero = torch.zeros((), device=batch.image.device)
        sums = [term.loss(prediction, batch) if prediction.step >= term.warmup_steps else zero
                for term in self.terms.values()]  # fmt: skip
        return torch.stack([value.float() for value in sums])

    def total(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Return the weighted sum of the means; a loss with count 0 adds 0."""
        weights = sums.new_tensor([term.weight for term in self.terms.values()])
        return (weights * sums / counts.clamp(min=1)).sum()


def build_objective(losses: dict[str, dict[str, Any]]) -> Objective:
    """Build the losses that a recipe names.

    Args:
        losses: {file of modeling/losses: {"weight": 1.0, "warmup_steps": 0, ...its options}}.

    Raises:
        ValueError: for an unknown loss or option, or no loss.
    """
    if not losses:
        raise ValueError(f"losses is empty: name at least one of {', '.join(registry.names('modeling.losses'))}")
    terms = {}
    for name, section in losses.items():
        loss, options = registry.build_with_options("modeling.losses", name, section or {}, f"losses.{name}")
        terms[name] = Term(loss, options.weight, options.warmup_steps)
    return Objective(terms)


def pixels_in_field(batch: Batch, chosen: Tensor | None = None) -> Tensor:
    """Return the number of pixels of all phases inside the field.

    Args:
        batch: the samples.
        chosen: (B,) bool, samples that count; all when not given.
    """
    pixels = batch.field.sum((1, 2, 3)) * batch.phase.shape[1]
    return pixels.sum() if chosen is None else (pixels * chosen).sum()


def sum_in_field(error: Tensor, field: Tensor, chosen: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Return the sum of a pixel error over the field.

    Args:
        error: (B, D, T, 1, H, W).
        field: (B, D, H, W) bool.
        chosen: (B,) bool, samples that count; all when not given.
        weight: (B, D, H, W) with mean 1 over the field, from `heart_weight`; None for 1.
    """
    counted = field if chosen is None else field & chosen.view(-1, 1, 1, 1)
    factor = counted.to(error) if weight is None else counted * weight.to(error)
    return (error * factor[:, :, None, None]).sum()
