"""The report's plots: PSNR over the cardiac cycle, and quality over bytes.

Axes: T phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from utils.metrics import finite_mean
from utils.report.drawing.figures import COLORS, INK, legend_below, log_axis, plain_panel, save_both

MAX_BINS = 20
MARKERS = "osD^v<>"
LINES = ("-", "--", ":")  # one kind for each round of colours
LOG_FACTOR = 8  # ratio of largest and smallest rate from which their axis is logarithmic


class RatePoint(NamedTuple):
    """One model at one rate.

    Args:
        name: of the model; points of one name are joined by a line.
        bytes_per_frame: mean over patients.
        psnr: mean over patients, in dB.
        dice: mean over patients; NaN where no heart was scored.
    """

    name: str
    bytes_per_frame: float
    psnr: float
    dice: float


def over_the_cycle(curves: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and spread of the patients' scores over the cycle; the patients may differ in T.

    Args:
        curves: (T,) scores of each patient, NaN or inf where a phase does not apply.

    Returns:
        (bins,) middle of each bin as a fraction of the cycle, (bins,) mean over patients, (bins,) their sample
        standard deviation (0 for one patient). There are as many bins as the shortest cine has phases, at most 20.
    """
    bins = min(MAX_BINS, *(len(curve) for curve in curves))
    table = np.full((len(curves), bins), np.nan)
    for row, curve in zip(table, curves, strict=True):
        member = np.arange(len(curve)) * bins // len(curve)
        row[:] = [finite_mean(np.asarray(curve, float)[member == b]) for b in range(bins)]
    table[np.isinf(table)] = np.nan
    known = [column[~np.isnan(column)] for column in table.T]
    mean = np.array([v.mean() if v.size else np.nan for v in known])
    std = np.array([v.std(ddof=1) if v.size > 1 else 0.0 for v in known])
    return (np.arange(bins) + 0.5) / bins, mean, std


def draw_phase_curve(path: Path, curves: Mapping[str, Sequence[Sequence[float]]], caption: str) -> bytes:
    """Save PSNR over the cardiac cycle, one line a model or baseline; the first has a band of one standard deviation.

    Args:
        path: a .png file.
        curves: name -> (T,) PSNR in dB of each patient.
        caption: data and rate.

    Returns:
        The same figure as SVG.
    """
    figure = Figure(figsize=(7.4, 3.8), layout="constrained")
    ax = figure.subplots()
    for index, (name, patients) in enumerate(curves.items()):
        place, mean, std = over_the_cycle(patients)
        color, line = COLORS[index % len(COLORS)], LINES[index // len(COLORS) % len(LINES)]
        if index == 0 and len(patients) > 1:
            ax.fill_between(place, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
        style: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 2 if index == 0 else 1.2}
        ax.plot(place, mean, marker="o", markersize=3, label=name, **style)
    ax.set_xlim(0, 1)
    ax.set_xlabel("place in the stored cycle (fraction of T)", fontsize=10)
    ax.set_ylabel("PSNR (dB)", fontsize=10)
    plain_panel(ax)
    legend_below(figure)
    figure.suptitle(caption, fontsize=9, color=INK)
    return save_both(figure, path)


def draw_rates(path: Path, points: Sequence[RatePoint], dice_original: float, caption: str) -> bytes:
    """Save PSNR and, where hearts were scored, Dice over bytes a frame.

    Args:
        path: a .png file.
        points: at least two.
        dice_original: mean Dice of the segmented originals, a dashed line; NaN for none.
        caption: data and number of patients.

    Returns:
        The same figure as SVG.
    """
    panels = {"PSNR (dB)": "psnr", "Dice": "dice"}
    if not np.isfinite([point.dice for point in points]).any():
        del panels["Dice"]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    names = list(dict.fromkeys(point.name for point in points))
    rates = [point.bytes_per_frame for point in points]
    for ax, (label, key) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for index, name in enumerate(names):
            line = sorted((point.bytes_per_frame, getattr(point, key)) for point in points if point.name == name)
            style: dict[str, Any] = {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}
            style |= {"fillstyle": "none", "markersize": 7 + 2 * index, "markeredgewidth": 2}  # none hides another
            ax.plot(*zip(*line, strict=True), linewidth=1.6, label=name, **style)
        if key == "dice" and np.isfinite(dice_original):
            ax.axhline(dice_original, color=INK, linestyle="--", linewidth=1, label="original")
        if max(rates) > LOG_FACTOR * min(rates):
            log_axis(ax.xaxis)
        else:
            ax.set_xlim(0, 1.08 * max(rates))
        ax.set_xlabel("bytes a frame", fontsize=10)
        ax.set_ylabel(label, fontsize=10)
        plain_panel(ax)
    legend_below(figure)
    figure.suptitle(caption, fontsize=9, color=INK)
    return save_both(figure, path)
