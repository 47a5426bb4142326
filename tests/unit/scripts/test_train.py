"""The pieces of the training script that are pure functions."""

import importlib
from typing import Any

import pytest

from scripts.training.setup import build
from tests.tiny import REPOSITORY
from utils.config.recipe import parse

recipe = importlib.import_module("scripts.recipe")
output = importlib.import_module("scripts.training.output")


@pytest.mark.parametrize(("key", "refused"), [("seed", True), ("wandb", False)])
def test_a_resumed_run_may_change_how_it_is_watched_but_not_what_it_is(key: str, refused: bool) -> None:
    saved: dict[str, Any] = {"experiment": {"seed": 0, "wandb": False}, "losses": {"flow": {"weight": 1.0}}}
    current: dict[str, Any] = {"experiment": {**saved["experiment"], key: 3}, "losses": saved["losses"]}
    if not refused:
        recipe.same_run(saved, current, "out")
        return
    with pytest.raises(ValueError, match=r"out holds a run with experiment\.seed=0, but this command has 3"):
        recipe.same_run(saved, current, "out")


@pytest.mark.parametrize(
    ("best_by", "value", "best", "better"),
    [("val_psnr", 21.0, 20.0, True), ("val_psnr", 19.0, 20.0, False), ("-val_psnr", 19.0, 20.0, True),
     ("val_psnr", float("nan"), None, False), ("val_psnr", 3.0, None, True)],
)  # fmt: skip
def test_the_best_preview_is_the_highest_value_or_the_lowest_with_a_minus(
    best_by: str, value: float, best: float | None, better: bool
) -> None:
    assert output.is_better(best_by, {"val_psnr": value}, best) is better


def test_a_resumed_run_that_chooses_by_another_value_has_no_best_preview_yet() -> None:
    saved = {"best": 31.0, "config": {"training": {"best_by": "val_psnr"}}}
    assert output.best_of(saved, "val_psnr") == 31.0 and output.best_of(saved, "val_dice_LV") is None


def test_a_value_that_the_previews_do_not_have_is_named_with_those_that_they_have() -> None:
    with pytest.raises(ValueError, match=r"training\.best_by is psnr, expected one of val_psnr, val_dice_RV"):
        output.is_better("psnr", {"val_psnr": 1.0, "val_dice_RV": 0.5}, None)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("losses={pixel: {warmup_steps: 5}, commitment: {warmup_steps: 2}}", "set warmup_steps of one loss to 0"),
        ("losses={pixel: {weight: 0.0}, commitment: {warmup_steps: 2}}", "set warmup_steps of one loss to 0"),
        ("training={trainable: [tokenizer.*], reseed_every: 2}", "training.reseed_every replaces unused entries"),
        ("training={trainable: [resampler.*], continuous_steps: 2}", "training.continuous_steps is 2, but"),
        ("training={trainable: [tokenizer.*], continuous_steps: 9, max_steps: 9}", "expected fewer than"),
    ],
)
def test_a_recipe_whose_first_steps_cannot_train_is_refused_before_its_data_is_read(more: str, words: str) -> None:
    tiny = "model.tokenizer={init: random, vq_model: {image_size: 32, codebook_size: 64}}"
    given = [f"config={REPOSITORY}/configs/demo/stage1.yaml", "experiment.output_dir=out", tiny]
    with pytest.raises(ValueError, match=words):
        build(parse(recipe.RunConfig, [*given, "model.layout=sequence", "losses={pixel: {}}", more]))
