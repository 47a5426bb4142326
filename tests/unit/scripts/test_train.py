"""The pieces of the training script that are pure functions."""

import importlib
from typing import Any

import pytest
import torch

from modeling.objective import build_objective

recipe = importlib.import_module("scripts.recipe")
script = importlib.import_module("scripts.train_mri_titok")


@pytest.mark.parametrize(("key", "refused"), [("seed", True), ("wandb", False)])
def test_a_resumed_run_may_change_how_it_is_watched_but_not_what_it_is(key: str, refused: bool) -> None:
    saved: dict[str, Any] = {"experiment": {"seed": 0, "wandb": False}, "losses": {"flow": {"weight": 1.0}}}
    current: dict[str, Any] = {"experiment": {**saved["experiment"], key: 3}, "losses": saved["losses"]}
    if not refused:
        recipe.same_run(saved, current, "out")
        return
    with pytest.raises(ValueError, match=r"out holds a run with experiment\.seed=0, but this command has 3"):
        recipe.same_run(saved, current, "out")


def test_the_log_says_how_many_each_term_saw() -> None:
    objective = build_objective({"pixel": {"weight": 2.0}, "disease": {}})
    history = [torch.tensor([[6.0, 0.0], [4.0, 0.0]]), torch.tensor([[2.0, 3.0], [4.0, 2.0]])]  # a step: sums, counts
    found = script.means(objective, history, done=2)
    assert (found["pixel"], found["count_pixel"]) == (1.0, 8.0)
    assert (found["disease"], found["count_disease"]) == (1.5, 2.0)
