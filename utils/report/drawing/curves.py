"""Training curves: the values of `log.jsonl` over optimizer steps, of one run or of several, as one picture.

A line of the log is a JSON object with `step` and values by name; a section, such as `speed`, holds more values. A null
is a gap. A resumed run can repeat steps: the later line counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from utils.report.drawing.figures import COLORS, INK, log_axis, plain_panel, save
from utils.text import read_text

LOG = "log.jsonl"
COUNT = "count_"  # of the elements of a loss; the rest of the name is a loss
HIDDEN = (COUNT, "eta_s")  # how the names begin that are drawn only if they are asked for
POSITIVE = ("loss", "grad_norm")  # with the losses: on a log scale if they change by more than LOG_FACTOR
LOG_FACTOR = 10
COLUMNS = (4, 5)  # of panels, what leaves fewer empty; for few panels see `grid`
FEW_POINTS = 40  # up to here, each point has a marker
LINES = ("-", "--", ":")  # one kind for each round of colours


@dataclass
class Curve:
    """The values of one quantity.

    Args:
        steps: optimizer steps, increasing.
        values: one a step; NaN where the log has null.
    """

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, step: int, value: float | None) -> None:
        """Add a value; values of this step and of later ones are from before a resume and are removed."""
        while self.steps and self.steps[-1] >= step:
            self.steps.pop()
            self.values.pop()
        self.steps.append(step)
        self.values.append(math.nan if value is None else float(value))


def read_curves(folder: str | Path) -> dict[str, Curve]:
    """Read the log of a run.

    Args:
        folder: output folder of a training run, with `log.jsonl`.

    Returns:
        Name -> curve, in the order of the log; texts are left out, and so is an incomplete last line.

    Raises:
        FileNotFoundError: without a log.
        ValueError: naming file and line, for a line that is not a JSON object with a step; and for a log without
            values.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the output folder of a training run")
    curves: dict[str, Curve] = {}
    for number, text in enumerate(lines := read_text(path).splitlines(keepends=True), start=1):
        try:
            line = json.loads(text)
        except ValueError:
            if number == len(lines) and not text.endswith("\n"):
                break  # the run was killed, or is writing now
            raise ValueError(f"{path}, line {number}: not JSON: {text.strip()[:60]!r}; correct or remove it") from None
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"{path}, line {number}: expected an object with a whole number `step`, found "
                             f"{text.strip()[:60]!r}; correct or remove it")  # fmt: skip
        for name, value in flat(line).items():
            if name != "step":
                curves.setdefault(name, Curve()).add(line["step"], value)
    if not any(math.isfinite(value) for curve in curves.values() for value in curve.values):
        raise ValueError(f"{path}: no values yet; the first are written after training.log_every steps")
    return curves


def flat(line: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers and nulls of a line and of its sections, by their own names."""
    values: dict[str, float | None] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            values |= flat(value)
        elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
            values[name] = value
    return values


def pick_keys(runs: Mapping[str, Mapping[str, Curve]], chosen: Sequence[str] | None = None) -> list[str]:
    """The names to draw: loss, losses, held-out values (`val_...`), then the rest.

    Args:
        runs: name of a run -> its curves.
        chosen: names to draw, in this order; None for all but counts and the time left.

    Raises:
        ValueError: for a chosen name that no run has.
    """
    known = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    for name in chosen or ():
        if name not in known:
            near = get_close_matches(name, known, n=3) or [key for key in known if not key.startswith(HIDDEN)]
            raise ValueError(f"--keys {name}: no run has this value; use {', '.join(near)}")
    if chosen:
        return list(dict.fromkeys(chosen))
    shown = [name for name in known if not name.startswith(HIDDEN)]
    losses = [name for name in shown if name == "loss" or COUNT + name in known]
    held_out = [name for name in shown if name.startswith("val_")]
    return [*losses, *held_out, *(name for name in shown if name not in (*losses, *held_out))]


def draw_curves(
    path: Path, runs: Mapping[str, Mapping[str, Curve]], caption: str, keys: Sequence[str] | None = None
) -> None:
    """Save the curves: one panel a quantity, one colour a run.

    Args:
        path: a .png file.
        runs: name of a run -> its curves, see `read_curves`.
        caption: description of the runs.
        keys: see `pick_keys`.
    """
    names = pick_keys(runs, keys)
    rows, columns = grid(len(names))
    figure = Figure(figsize=(max(3.1 * columns, 5.6), 2.1 * rows + 0.8), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    last = max(curves[name].steps[-1] for curves in runs.values() for name in names if name in curves)
    losses = {name for curves in runs.values() for name in curves if COUNT + name in curves}
    for place, (ax, name) in enumerate(zip(axes, names, strict=False)):
        for index, curves in enumerate(runs.values()):
            if name in curves:
                _draw_curve(ax, curves[name], index)
        drawn = [curves[name] for curves in runs.values() if name in curves]
        _style(ax, name, drawn, may_be_log=name in POSITIVE or name in losses)
        ax.set_xlim(0, last * 1.02)
        if place + columns >= len(names):  # nothing below it
            ax.set_xlabel("optimizer steps", fontsize=8)
            ax.tick_params(labelbottom=True)
    for ax in axes[len(names) :]:
        ax.set_visible(False)
    if len(runs) > 1:
        lines = [axes[0].plot([], [], label=name, **style_of(index))[0] for index, name in enumerate(runs)]
        figure.legend(handles=lines, loc="outside lower center", ncols=min(4, len(runs)), fontsize=8, frameon=False)
    figure.suptitle(caption, fontsize=9, color=INK)
    save(figure, path)


def grid(panels: int) -> tuple[int, int]:
    """Rows and columns for a number of panels."""
    columns = panels if panels <= 4 else 3 if panels <= 6 else min(COLUMNS, key=lambda count: -panels % count)
    return math.ceil(panels / columns), columns


def style_of(index: int) -> dict[str, Any]:
    """Colour and kind of line of a run."""
    return {"color": COLORS[index % len(COLORS)], "linestyle": LINES[index // len(COLORS) % len(LINES)]}


def _draw_curve(ax: Axes, curve: Curve, index: int) -> None:
    """One run in one panel; few points have markers, so that a point between two gaps is seen; many, a thin line."""
    few = len(curve.steps) <= FEW_POINTS
    style: dict[str, Any] = {"marker": "o", "markersize": 2.5, "linewidth": 1.3} if few else {"linewidth": 0.8}
    ax.plot(curve.steps, curve.values, **style_of(index), **style)


def _style(ax: Axes, name: str, curves: Sequence[Curve], may_be_log: bool) -> None:
    """Title, scale, ticks and grid of a panel."""
    finite = [value for curve in curves for value in curve.values if math.isfinite(value)]
    log = may_be_log and bool(finite) and min(finite) > 0 and max(finite) > LOG_FACTOR * min(finite)
    ax.set_title(f"{name} (log scale)" if log else name, fontsize=8, color=INK)
    if log:
        log_axis(ax.yaxis)
    else:
        numbers = ScalarFormatter(useOffset=False, useMathText=True)
        numbers.set_powerlimits((-3, 5))
        ax.yaxis.set_major_formatter(numbers)
        ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.tick_params(labelsize=7)
    ax.yaxis.get_offset_text().set_fontsize(7)
    plain_panel(ax)
