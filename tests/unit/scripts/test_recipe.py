"""Every number that a recipe or a component reads has a range, and what no run can use is refused in one line."""

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, is_typeddict

import pytest

from scripts.recipe import RunConfig
from utils.config import registry
from utils.config.coerce import type_hints
from utils.config.ranges import Range
from utils.config.recipe import ConfigError, parse

FOLDERS = ("modeling.losses", "modeling.conditioning", "data.sources", "data.codecs")
COMPONENTS = [f"{folder}.{name}" for folder in FOLDERS for name in registry.names(folder)]


def without_range(hint: Any, key: str) -> Iterator[str]:
    """Keys of the numbers below a type that declare no range."""
    if get_origin(hint) is Annotated:
        base, *limits = get_args(hint)
        if not any(isinstance(limit, Range) for limit in limits):
            yield from without_range(base, key)
    elif dataclasses.is_dataclass(hint):
        for name, entry in type_hints(hint).items():  # type: ignore[arg-type]
            yield from without_range(entry, f"{key}.{name}")
    elif is_typeddict(hint):
        for name, entry in hint.__annotations__.items():
            yield from without_range(entry, f"{key}.{name}")
    elif hint in (int, float):
        yield key
    else:
        for part in get_args(hint):
            yield from without_range(part, key)


def test_every_number_of_a_recipe_has_a_range() -> None:
    assert list(without_range(RunConfig, "recipe")) == []


@pytest.mark.parametrize("component", COMPONENTS)
def test_every_number_of_a_component_has_a_range(component: str) -> None:
    assert list(without_range(importlib.import_module(component).Options, component)) == []


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("training.max_steps=-5", "training.max_steps: expected a number from 1"),
        ("training.log_every=0", "training.log_every: expected a number from 1"),
        (
            "training.gradient_accumulation_steps=0",
            "training.gradient_accumulation_steps: expected a number from 1",
        ),
        ("training.max_grad_norm=nan", "training.max_grad_norm: expected a number above 0"),
        ("training.max_grad_norm=.nan", "training.max_grad_norm: expected a number above 0"),
        ("training.mixed_precision=fp8", "training.mixed_precision: expected one of no, fp16, bf16, auto"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate: expected a number from 0"),
        ("optimizer.scale={dit: -1}", "optimizer.scale.dit: expected a number from 0"),
        ("flow.one_step_share=2", "flow.one_step_share: expected a number from 0 to 1"),
        ("dataset.augment.scale=1", "dataset.augment.scale: expected a number from 0 to below 1"),
        ("model.dit.size.num_layers=1000000000000", "model.dit.size: expected a section of width, num_layers"),
        ("model.channels=2", "model.channels: expected one of 1, 3"),
    ],
)
def test_a_number_that_no_run_can_use_is_refused_by_its_key(argument: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(RunConfig, ["experiment.output_dir=out", argument])
    assert str(error.value).startswith(message)


def test_micro_batches_cut_the_batch_without_rest() -> None:
    given = ["experiment.output_dir=out", "training.global_batch_size=4"]
    with pytest.raises(ConfigError, match=r"training: global_batch_size 4 is not a multiple of gradient_accumulation"):
        parse(RunConfig, [*given, "training.gradient_accumulation_steps=3"])
    assert parse(RunConfig, [*given, "training.gradient_accumulation_steps=2"]).training.max_steps == 1000


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cycle", {"harmonics": 0}, "losses.cycle.harmonics: expected a number from 1"),
        ("volume", {"delta": 0}, "losses.volume.delta: expected a number above 0"),
        ("disease", {"wall_margin": 0}, "losses.disease.wall_margin: expected a number above 0"),
        ("pixel", {"heart": 0}, "losses.pixel.heart: expected a number above 0"),
        ("segmentation", {"weight": -1}, "losses.segmentation.weight: expected a number from 0"),
        ("contrastive", {"temperature": 0}, "losses.contrastive.temperature: expected a number above 0"),
        ("flow", {"weight": float("nan")}, "losses.flow.weight: expected a number from 0"),
    ],
)
def test_a_loss_refuses_a_number_outside_its_range(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.build("modeling.losses", name, options, f"losses.{name}")
    assert str(error.value).startswith(message)
