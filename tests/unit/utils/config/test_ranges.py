"""A number declares its range once, with its type, and is held to it wherever it is read."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

import pytest

from utils.config.ranges import AboveZero, BelowOne, Count, Fraction, Levels, Positive, Range, TransformerSize
from utils.config.recipe import ConfigError, from_plain


@dataclass
class Options:
    steps: Positive = 1
    wait: Count = 0
    share: Fraction = 0.5
    decay: BelowOne = 0.9
    rate: AboveZero = 1.0
    phases: Positive | None = None
    levels: Levels = field(default_factory=lambda: [8])
    scale: dict[str, Fraction] = field(default_factory=dict)
    size: str | TransformerSize = "S"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 0, "part.steps: expected a number from 1 to 2147483647, found 0"),
        ("steps", -5, "part.steps: expected a number from 1 to"),
        ("steps", 10**12, "part.steps: expected a number from 1"),
        ("steps", 10**400, "part.steps: expected a number from 1 to 2147483647, found 0x"),
        ("share", 10**400, "part.share: expected float, found 0x"),
        ("rate", "9" * 400, "part.rate: expected a number above 0"),
        ("wait", -1, "part.wait: expected a number from 0"),
        ("share", 1.5, "part.share: expected a number from 0 to 1, found 1.5"),
        ("share", float("nan"), "part.share: expected a number from 0 to 1, found nan"),
        ("decay", 1.0, "part.decay: expected a number from 0 to below 1, found 1.0"),
        ("rate", 0, "part.rate: expected a number above 0"),
        ("rate", float("inf"), "part.rate: expected a number above 0"),
        ("phases", 0, "part.phases: expected a number from 1"),
        ("levels", [8, 1], "part.levels[1]: expected a number from 2"),
        ("scale", {"dit.*": 2}, "part.scale.dit.*: expected a number from 0"),
        ("size", {"width": 8, "num_layers": 10**12, "num_heads": 2}, "part.size.num_layers: expected a number"),
        ("size", {"width": 8}, "part.size: expected a section of width, num_layers, num_heads, found"),
    ],
)  # fmt: skip
def test_a_number_outside_its_range_is_named_with_the_range(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        from_plain(Options, {key: value}, "part")
    assert str(error.value).startswith(message) and len(str(error.value)) < 250


def test_the_ends_of_a_range_belong_to_it_unless_it_says_otherwise() -> None:
    read = from_plain(Options, {"steps": 1, "wait": 0, "share": 1, "decay": 0, "phases": None, "size": "B"})
    assert (read.steps, read.wait, read.share, read.decay, read.phases, read.size) == (1, 0, 1.0, 0.0, None, "B")
    assert from_plain(Options, {"size": {"width": 8, "num_layers": 1, "num_heads": 2}}).size["width"] == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nothing_that_is_not_finite_is_in_a_range(value: float) -> None:
    assert value not in Range()


def bare_numbers(hint: Any) -> bool:
    """Whether a type holds an int or a float without a range."""
    if get_origin(hint) is Annotated:
        base, *limits = get_args(hint)
        return not any(isinstance(limit, Range) for limit in limits) and bare_numbers(base)
    return hint in (int, float) or any(bare_numbers(part) for part in get_args(hint))


def test_the_law_below_sees_a_number_without_a_range() -> None:
    assert bare_numbers(list[int]) and bare_numbers(Union[str, None, float]) and bare_numbers(dict[str, float])  # noqa: UP007
    assert not bare_numbers(list[Positive]) and not bare_numbers(bool) and not bare_numbers(Levels | None)
