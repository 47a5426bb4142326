"""Types of numbers with a range, for options: `max_steps: Positive`, `dropout: Fraction | None`.

A range is part of a field's type and is checked where the field is read: from a recipe, a config.json or a sample
(utils/config/coerce.py).
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypedDict, get_args


@dataclass(frozen=True)
class Range:
    """Allowed numbers of a field; NaN and infinity are in no range.

    Args:
        least: inclusive lower limit.
        most: inclusive upper limit.
        above: exclusive lower limit, instead of `least`.
        below: exclusive upper limit, instead of `most`.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        # NaN fails each comparison, and infinity is no number; math.isfinite cannot read very long integers.
        within = self.least <= value <= self.most and self.above < value and value < self.below
        return within and abs(value) != math.inf

    def __str__(self) -> str:
        low = f"above {_text(self.above)}" if self.above > -math.inf else f"of at least {_text(self.least)}"
        high = f"below {_text(self.below)}" if self.below < math.inf else f"at most {_text(self.most)}"
        has_low, has_high = max(self.above, self.least) > -math.inf, min(self.below, self.most) < math.inf
        if has_high and self.least > -math.inf:
            return f"from {_text(self.least)} to {high.removeprefix('at most ')}"
        return " and ".join([low] * has_low + [high] * has_high) or "that is finite"


def _text(end: float) -> str:
    return f"{end:.0f}" if abs(end) < 1e15 and end == round(end) else f"{end:g}"


LARGEST = 2**31 - 1

Count: TypeAlias = Annotated[int, Range(0, LARGEST)]
Positive: TypeAlias = Annotated[int, Range(1, LARGEST)]
Seed: TypeAlias = Annotated[int, Range(0, 2**63 - 1)]
Fraction: TypeAlias = Annotated[float, Range(0, 1)]
BelowOne: TypeAlias = Annotated[float, Range(0, below=1)]
NotNegative: TypeAlias = Annotated[float, Range(0, 1e9)]
Millimetres: TypeAlias = Annotated[float, Range(above=0, most=200)]  # distances in the plane of a slice
AboveZero: TypeAlias = Annotated[float, Range(above=0, most=1e9)]

# Sizes of networks: large enough for current networks, small enough to prevent endless allocation.
Pixels: TypeAlias = Annotated[int, Range(1, 2048)]
Width: TypeAlias = Annotated[int, Range(1, 16384)]
Layers: TypeAlias = Annotated[int, Range(1, 256)]
Heads: TypeAlias = Annotated[int, Range(1, 256)]
Tokens: TypeAlias = Annotated[int, Range(1, 4096)]
Codes: TypeAlias = Annotated[int, Range(1, 2**20)]
Levels: TypeAlias = list[Annotated[int, Range(2, 65536)]]


Ranges: TypeAlias = Mapping[str, Any]  # option of a command -> type with a range, such as Positive


def check_options(options: argparse.Namespace, ranges: Ranges) -> None:
    """Check the numbers of a command line.

    Args:
        options: the parsed options; each number of a list is checked, and None is left out.
        ranges: name of an option -> its range.
    Raises:
        ValueError: naming the option, the number and the range.
    """
    for name, hint in ranges.items():
        value = getattr(options, name)
        for number in value if isinstance(value, list) else [] if value is None else [value]:
            if number not in (limit := get_args(hint)[1]):
                raise ValueError(f"--{name} is {number:g}, expected a number {limit}")


class TransformerSize(TypedDict):
    """Channels, blocks and attention heads of a transformer."""

    width: Width
    num_layers: Layers
    num_heads: Heads
