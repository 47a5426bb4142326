"""How tests compute losses: through the objective, as training does."""

from typing import Any

from torch import Tensor

from modeling.objective import Objective, build_objective
from modeling.prediction import Prediction
from utils.types import Batch


def sum_and_count(name: str, prediction: Prediction, batch: Batch, **options: Any) -> tuple[Tensor, Tensor]:
    """The sum of one loss, and how many elements count."""
    objective = build_objective({name: options})
    counts = objective.counts(batch, prediction.one_step, prediction.step)
    return objective(prediction, batch)[0], counts[0]


def mean(name: str, prediction: Prediction, batch: Batch, **options: Any) -> float:
    """The mean of one loss; 0 where nothing counts."""
    total, count = sum_and_count(name, prediction, batch, **options)
    return float((total / count.clamp(min=1)).detach())


def weighted_sum(objective: Objective, prediction: Prediction, batch: Batch) -> Tensor:
    """The loss of a batch."""
    counts = objective.counts(batch, prediction.one_step, prediction.step)
    return objective.total(objective(prediction, batch), counts)
