"""The fingerprint's pictures: distributions of the images and hearts of a cohort.

A row holds the numbers of one patient, as in `patients` of fingerprint.json; None where a number is not known.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from utils.report.drawing.figures import COLORS, INK

Rows = Sequence[Mapping[str, Any]]

IMAGES = {  # panel -> the numbers in it, with their names in the legend
    "pixel spacing (mm)": {"along H": "spacing_h_mm", "along W": "spacing_w_mm"},
    "slice spacing (mm)": {"": "spacing_d_mm"},
    "sides (pixels)": {"H": "height", "W": "width"},
    "field of view (mm)": {"H": "field_h_mm", "W": "field_w_mm"},
    "slices": {"": "slices"},
    "phases": {"": "phases"},
    "intensity, 99.5th percentile": {"": "intensity_p99.5"},
    "labels inside the 128 px crop (share)": {"": "heart_in_crop"},
}
HEARTS = {
    "lv_edv": "LV EDV (mL)",
    "lv_esv": "LV ESV (mL)",
    "lv_ef": "LV EF (%)",
    "lv_mass": "LV mass (g)",
    "rv_edv": "RV EDV (mL)",
    "rv_esv": "RV ESV (mL)",
    "rv_ef": "RV EF (%)",
    "myo_es": "MYO at ES (mL)",
}
COLUMNS = 4
BINS = 20
STEPS = (1, 2, 5, 10)  # of ticks
WHOLE = 30  # largest range of whole numbers that get one bar each


def draw_images(rows: Rows) -> bytes:
    """Histograms of spacing, sides, field, slices, phases, intensity and the crop, over patients; a PNG."""
    panels = {name: {part: known(rows, key) for part, key in parts.items()} for name, parts in IMAGES.items()}
    panels = {name: parts for name, parts in panels.items() if any(map(len, parts.values()))}
    figure, axes = _grid(len(panels))
    for ax, (name, parts) in zip(axes, panels.items(), strict=True):
        _histogram(ax, parts)
        ax.set_xlabel(name, fontsize=9)
        if len(parts) > 1:
            ax.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("patients", fontsize=9)
    return _png(figure)


def draw_hearts(rows: Rows, groups: Sequence[str]) -> tuple[bytes, bytes] | None:
    """LV EF as a histogram of stacked groups, and volumes, EF and mass by group, one point a patient; PNGs.

    Args:
        rows: of all patients.
        groups: in the order of the plots.

    Returns:
        (histogram, points by group); None where no patient is labelled.
    """
    panels = {name: [known(of_group(rows, g), key) for g in groups] for key, name in HEARTS.items()}
    panels = {name: values for name, values in panels.items() if any(map(len, values))}
    if not panels:
        return None
    figure, axes = _grid(len(panels))
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        _points(ax, values, groups)
        ax.set_ylabel(name, fontsize=9)
    return _ejection(rows, groups), _png(figure)


def of_group(rows: Rows, group: str) -> Rows:
    """The patients of a diagnosis."""
    return [row for row in rows if row["group"] == group]


def known(rows: Rows, key: str) -> np.ndarray:
    """The known values of a number, in the order of the patients."""
    return np.array([row[key] for row in rows if row[key] is not None], float)


def _histogram(ax: Axes, parts: Mapping[str, np.ndarray]) -> None:
    """Parts side by side in common bins: one bin a whole number where the range is small, else BINS bins."""
    values = np.concatenate(list(parts.values()))
    low, high = float(values.min()), float(values.max())
    whole = bool((values == np.round(values)).all()) and high - low <= WHOLE
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, BINS + 1)
    alike = high - low <= 1e-6 * abs(high)
    if alike:  # one bar in the middle
        edges = low + np.array([-0.05, 0.05]) * (abs(low) or 1)
        ax.margins(x=3)
    ax.hist(list(parts.values()), bins=edges.tolist(), color=COLORS[: len(parts)], label=list(parts), rwidth=0.9)
    ax.xaxis.set_major_locator(FixedLocator([low]) if alike else MaxNLocator(8, integer=whole, steps=STEPS))
    _tidy(ax)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))


def _ejection(rows: Rows, groups: Sequence[str]) -> bytes:
    values = [known(of_group(rows, group), "lv_ef") for group in groups]
    figure = Figure(figsize=(8, 3), layout="constrained")
    ax = figure.subplots()
    together = np.concatenate(values)
    low, high = (float(f) for f in (min(0, together.min(initial=0)), max(100, together.max(initial=100))))
    edges = np.arange(5 * np.floor(low / 5), high + 5, 5)
    ax.hist(values, bins=edges.tolist(), stacked=True, color=_colors(groups), label=list(groups), rwidth=0.95)
    ax.set_xlabel("LV EF (%)", fontsize=9)
    ax.set_ylabel("patients", fontsize=9)
    _tidy(ax)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return _png(figure)


def _points(ax: Axes, values: Sequence[np.ndarray], groups: Sequence[str]) -> None:
    for place, (group, color) in enumerate(zip(values, _colors(groups), strict=True)):
        spread = 0.5 * (
            (np.arange(len(group)) * 0.618) % 1 - 0.5
        )  # golden ratio: neighbours stay apart, without random numbers
        ax.scatter(place + spread, group, s=14, color=color, alpha=0.7, linewidths=0)
        if len(group):
            ax.hlines(np.median(group), place - 0.35, place + 0.35, color=INK, linewidth=1.6)
    ax.set_xticks(range(len(groups)), groups, fontsize=8, rotation=0 if len(groups) <= 6 else 60)
    ax.set_xlim(-0.6, len(groups) - 0.4)
    _tidy(ax)


def _colors(groups: Sequence[str]) -> list[str]:
    return [COLORS[index % len(COLORS)] for index in range(len(groups))]


def _grid(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure with this number of panels, four in a row."""
    rows = -(-panels // COLUMNS)
    figure = Figure(figsize=(3.1 * COLUMNS, 2.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for ax in axes[panels:]:
        ax.remove()
    return figure, axes[:panels]


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
