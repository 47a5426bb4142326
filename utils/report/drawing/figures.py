"""The report's pictures: original beside reconstruction and error, and motion along a line.

Grey values have data range 1 after the volume's window; errors have one fixed scale, so that pictures are comparable.
Axes: H height, W width, D slices, T phases.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from utils.files import atomic_path

ERROR_SCALE = 0.25  # of the window; larger errors saturate; the arrow of the colour bar shows it
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # distinct for colour-blind readers too
INK = "#1f2933"
GREY: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "none"}
ERROR: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": ERROR_SCALE, "interpolation": "none"}
ERROR_LABEL = "absolute error (window = 0 to 1)"
GRID = "#e4e7eb"
LEGEND_LETTERS = 90  # in one line of a legend
THEMED = {  # colour of a figure -> variable, colour in dark mode
    "#000000": ("ink", "#e4e7eb"),
    INK: ("ink", "#e4e7eb"),
    "#ffffff": ("paper", "#1b222a"),
    GRID: ("grid", "#323c47"),
    COLORS[0]: ("blue", "#3d9ad6"),
}


@dataclass(frozen=True)
class Picture:
    """The data of one patient's pictures.

    Args:
        original: (D, T, H, W) float in [0, 1], the native pixels inside the model's field.
        reconstruction: the same, as decoded.
        spacing_mm: along H, along W.
        slices: (zero-based slice, name) from base to apex where known, see `pick_slices`.
        phases: (zero-based phase, name), see `pick_phases`.
        heart_row: the row of pixels (a line along W) whose motion is shown.
        caption: patient, data, quality and rate.
    """

    original: np.ndarray
    reconstruction: np.ndarray
    spacing_mm: tuple[float, float]
    slices: Sequence[tuple[int, str]]
    phases: Sequence[tuple[int, str]]
    heart_row: int
    caption: str


def pick_slices(depth: int, heart_area: np.ndarray | None) -> list[tuple[int, str]]:
    """A basal, a middle and an apical slice.

    Args:
        depth: D.
        heart_area: (D,) area of the heart's mask in each slice, which tells base from apex; None without masks.

    Returns:
        Up to three (zero-based slice, name), base first where masks are given, else in stored order.
    """
    labelled = np.arange(depth) if heart_area is None else np.flatnonzero(heart_area)
    if heart_area is None or labelled.size < 3:
        heart_area, labelled = None, np.arange(depth)
    count = len(labelled)
    picks = sorted({int(labelled[i]) for i in (count // 6, count // 2, count - 1 - count // 6)})
    names = [f"slice {z + 1} of {depth}" for z in picks]
    if heart_area is not None and len(picks) == 3:
        if heart_area[picks[0]] < heart_area[picks[-1]]:
            picks, names = picks[::-1], names[::-1]
        names = [f"{place}\n{name}" for place, name in zip(("basal", "mid", "apical"), names, strict=True)]
    return list(zip(picks, names, strict=True))


def pick_phases(phases: int, ed: int | None, es: int | None) -> list[tuple[int, str]]:
    """ED and ES where both are known, else the first phase and the phase half a cycle later.

    Args:
        phases: T.
        ed: zero-based phase of end-diastole, None where unknown.
        es: zero-based phase of end-systole, None where unknown.

    Returns:
        Up to two (zero-based phase, name).
    """
    if ed is not None and es is not None:
        return [(ed, f"ED, phase {ed + 1} of {phases}"), (es, f"ES, phase {es + 1} of {phases}")]
    return [(t, f"phase {t + 1} of {phases}") for t in sorted({0, phases // 2})]


def draw_frames(path: Path, picture: Picture) -> bytes:
    """Save original, reconstruction and absolute error of the chosen slices (rows) and phases (column triples).

    Args:
        path: a .png file.
        picture: the patient.

    Returns:
        The same figure as SVG.
    """
    height, width = _size_mm(picture)
    rows, columns = len(picture.slices), 3 * len(picture.phases)
    cell = 1.65  # inches
    figure = Figure(figsize=(cell * columns + 1.1, cell * height / width * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, (z, slice_name) in enumerate(picture.slices):
        row = axes[place]
        for first, (t, phase_name) in zip(range(0, columns, 3), picture.phases, strict=True):
            x, y = picture.original[z, t], picture.reconstruction[z, t]
            for ax, image, style in zip(row[first : first + 3], (x, y, abs(x - y)), (GREY, GREY, ERROR), strict=True):
                shown = ax.imshow(image, aspect=picture.spacing_mm[0] / picture.spacing_mm[1], **style)
                ax.set_xticks([])
                ax.set_yticks([])
            if place == 0:
                for ax, kind in zip(row[first : first + 3], ("original", "reconstruction", "error"), strict=True):
                    ax.set_title(f"{phase_name}\n{kind}", fontsize=9, color=INK)
        row[0].set_ylabel(slice_name, fontsize=9, color=INK)
    figure.colorbar(shown, ax=axes, label=ERROR_LABEL, extend="max", fraction=0.03, pad=0.01)
    figure.suptitle(picture.caption, fontsize=9, color=INK)
    return save_both(figure, path)


def draw_profile(path: Path, picture: Picture) -> bytes:
    """Save the motion along a line through the heart: position against phase, of original and reconstruction.

    Args:
        path: a .png file.
        picture: the patient; its middle chosen slice is shown.

    Returns:
        The same figure as SVG.
    """
    z, name = picture.slices[len(picture.slices) // 2]
    height, width = _size_mm(picture)
    x, y = (cine[z, :, picture.heart_row].T for cine in (picture.original, picture.reconstruction))  # (W, T)
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    place, *axes = figure.subplots(1, 4)
    place.imshow(picture.original[z, picture.phases[0][0]], extent=(0, width, height, 0), **GREY)
    place.axhline((picture.heart_row + 0.5) * picture.spacing_mm[0], color=COLORS[4], linewidth=1.5)
    place.set_title(f"the line: {name.replace(chr(10), ', ')}", fontsize=9, color=INK)
    place.set_xlabel("mm", fontsize=9)
    phases = x.shape[1]
    titles = ("original", "reconstruction", "error")
    for ax, image, style, title in zip(axes, (x, y, abs(x - y)), (GREY, GREY, ERROR), titles, strict=True):
        shown = ax.imshow(image, aspect="auto", extent=(0.5, phases + 0.5, width, 0), **style)
        ax.set_title(title, fontsize=9, color=INK)
        ax.set_xlabel("phase", fontsize=9)
        ax.set_xticks(sorted({1, *range(5, phases + 1, 5)}) if phases > 5 else range(1, phases + 1))
    axes[0].set_ylabel("position along the line (mm)", fontsize=9)
    figure.colorbar(shown, ax=axes, label=ERROR_LABEL, extend="max", fraction=0.03, pad=0.01)
    figure.suptitle(picture.caption, fontsize=9, color=INK)
    return save_both(figure, path)


def _size_mm(picture: Picture) -> tuple[float, float]:
    height, width = picture.original.shape[2:]
    return height * picture.spacing_mm[0], width * picture.spacing_mm[1]


def log_axis(axis: Any) -> None:
    """Make an axis, such as `ax.xaxis`, logarithmic, with plain numbers at 1, 2 and 5."""
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def plain_panel(ax: Any) -> None:
    """Give a panel a light grid, and no frame at its top and right."""
    ax.grid(color=GRID, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure) -> None:
    """Name the lines of all panels once, below them."""
    handles = {label: line for ax in figure.axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    columns = max(1, min(len(handles), LEGEND_LETTERS // (max(map(len, handles), default=0) + 6)))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9}
    figure.legend(handles.values(), handles.keys(), **place)


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, facecolor="white", metadata={"Software": None})


def save_both(figure: Figure, path: Path) -> bytes:
    """Write a figure as a .png file, and return it as SVG for a page that states its caption.

    Lines and texts of the SVG follow the dark mode of the browser.
    """
    save(figure, path)
    figure.suptitle("")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "path"}):  # the same bytes each time
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    light = "".join(f"--{name}:{color};" for color, (name, _) in THEMED.items())
    dark = "".join(f"--{name}:{color};" for name, color in THEMED.values())
    for color, (name, _) in THEMED.items():
        text = text.replace(f": {color}", f": var(--{name})")
    style = f"svg{{{light}fill:var(--ink)}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}"
    return text.replace("<defs>", f"<defs><style>{style}</style>", 1).encode()
