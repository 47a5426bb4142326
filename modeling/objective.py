"""The weighted sum of the losses; each is one file of modeling/losses and one line of the recipe.

A term returns (sum, count). Its count follows from the batch alone, so that counts are added over micro-batches and
ranks before the first backward pass: many micro-batches and many ranks have the loss of one batch.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modeling.prediction import Prediction
from utils.config import registry
from utils.types import Batch


class Term(Protocol):
    """A loss: the weighted mean of what it counts."""

    @property
    def weight(self) -> float:
        """Of the term in the sum."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Of the recipe, keys of `REMEDIES` in modeling/needs.py."""

    def count(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """How much of a batch counts, a scalar.

        Args:
            batch: the samples.
            one_step: (B,) bool, True for samples that are decoded from tokens alone.
            step: of the optimizer.
        """

    def __call__(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum over what counts, and `count`."""


class Objective(nn.Module):
    """Losses by name, in the order of the recipe, and their weights.

    A term that is a module, such as one with a projection head, has parameters of its own: they are trained and saved
    with the run, and are no part of the model.
    """

    def __init__(self, terms: dict[str, Term]) -> None:
        super().__init__()
        self.terms = terms
        self.weights = {name: term.weight for name, term in terms.items()}
        self.needs = {name: term.needs for name, term in terms.items()}
        self.learned = nn.ModuleDict({name: term for name, term in terms.items() if isinstance(term, nn.Module)})

    def forward(self, prediction: Prediction, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums and counts of all terms on this rank, (terms,) each."""
        pairs = [term(prediction, batch) for term in self.terms.values()]
        return torch.stack([s for s, _ in pairs]), torch.stack([c.to(s) for s, c in pairs])

    def counts(self, batch: Batch, one_step: Tensor, step: int) -> Tensor:
        """What each term counts on this rank, before any pass of the model, (terms,) float32."""
        counts = [term.count(batch, one_step, step) for term in self.terms.values()]
        return torch.stack([count.to(batch.image.device, torch.float32) for count in counts])

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
