"""The pieces of the training script that are pure functions."""

import importlib
from typing import Any

import pytest

recipe = importlib.import_module("scripts.recipe")


@pytest.mark.parametrize(("key", "refused"), [("seed", True), ("wandb", False)])
def test_a_resumed_run_may_change_how_it_is_watched_but_not_what_it_is(key: str, refused: bool) -> None:
    saved: dict[str, Any] = {"experiment": {"seed": 0, "wandb": False}, "losses": {"flow": {"weight": 1.0}}}
    current: dict[str, Any] = {"experiment": {**saved["experiment"], key: 3}, "losses": saved["losses"]}
    if not refused:
        recipe.same_run(saved, current, "out")
        return
    with pytest.raises(ValueError, match=r"out holds a run with experiment\.seed=0, this command says 3"):
        recipe.same_run(saved, current, "out")
