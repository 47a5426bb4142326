"""The weighted sum of the losses; each is one file of modeling/losses and one line of the recipe.

A term returns (sum, count). Counts are reduced over the ranks before dividing, so that many ranks see one loss.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modeling.prediction import Prediction
from utils import registry
from utils.types import Batch

Term = Callable[[Prediction, Batch], tuple[Tensor, Tensor]]


class Objective(nn.Module):
    """Losses by name, in the order of the recipe, and their weights.

    A term that is a module, such as one with a projection head, has parameters of its own: they are trained and saved
    with the run, and are no part of the model.
    """

    def __init__(self, terms: dict[str, Term]) -> None:
        super().__init__()
        self.terms = terms
        self.weights: dict[str, float] = {name: term.weight for name, term in terms.items()}  # type: ignore[attr-defined]
        self.needs: dict[str, tuple[str, ...]] = {name: getattr(term, "needs", ()) for name, term in terms.items()}
        self.learned = nn.ModuleDict({name: term for name, term in terms.items() if isinstance(term, nn.Module)})

    def forward(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
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
    return Objective(terms)


def in_field(
    error: Tensor, field: Tensor, chosen: Tensor | None = None, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum and count of a pixel error where native pixels lie, padding left out.

    Args:
        error: (B, C, H, W, D, T).
        field: (B, H, W, D) bool.
        chosen: (B,) bool, samples that count; all when not given.
        weight: (B, H, W, D) of mean 1 over a field, as `heart_weight` gives; even when not given.
    """
    counted = field[:, None, ..., None].to(error)
    if chosen is not None:
        counted = counted * chosen.view(-1, 1, 1, 1, 1, 1)
    counted = counted.expand_as(error)
    if weight is not None:
        error = error * weight[:, None, ..., None].to(error)
    return (error * counted).sum(), counted.sum()
