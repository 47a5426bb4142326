"""The weighted sum of the losses; each is one file of modeling/losses and one line of the recipe.

A term returns (sum, count). Counts are reduced over the ranks before dividing, so that many ranks see one loss.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling.prediction import Prediction
from utils import registry
from utils.types import Batch

Term = Callable[[Prediction, Batch], tuple[Tensor, Tensor]]


@dataclass
class Objective:
    """Losses by name, in the order of the recipe, and their weights."""

    terms: dict[str, Term]
    weights: dict[str, float]

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums and counts of all terms on this rank, (terms,) each."""
        pairs = [term(prediction, batch) for term in self.terms.values()]
        return torch.stack([s for s, _ in pairs]), torch.stack([c.to(s) for s, c in pairs])

    def total(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The weighted sum of the means; a term without a single element counts as zero."""
        weights = sums.new_tensor(list(self.weights.values()))
        return (weights * sums / counts.clamp(min=1)).sum()


def build_objective(losses: dict[str, dict[str, Any]]) -> Objective:
    """Build the losses that a recipe names.

    Args:
        losses: {file of modeling/losses: {"weight": 1.0, ...its options}}.

    Raises:
        ValueError: for an unknown loss or option, or when there is none.
    """
    if not losses:
        raise ValueError(f"losses is empty: name at least one of {', '.join(registry.names('modeling.losses'))}")
    terms = {name: registry.build("modeling.losses", name, options or {}, f"losses.{name}")
             for name, options in losses.items()}  # fmt: skip
    return Objective(terms, {name: term.weight for name, term in terms.items()})


def in_field(error: Tensor, field: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum and count of a pixel error where native pixels lie, padding left out.

    Args:
        error: (B, C, H, W, D, T).
        field: (B, H, W, D) bool.
        chosen: (B,) bool, samples that count; all when not given.
    """
    weight = field[:, None, ..., None].to(error)
    if chosen is not None:
        weight = weight * chosen.view(-1, 1, 1, 1, 1, 1)
    weight = weight.expand_as(error)
    return (error * weight).sum(), weight.sum()
