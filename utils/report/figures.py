"""The report's pictures: original beside reconstruction and error, motion along a line, PSNR over the cycle.

Grey values have data range 1 after the volume's window; errors have one fixed scale, so that pictures are comparable.
Axes: H height, W width, D slices, T phases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.files import atomic_path
from utils.metrics import finite_mean

ERROR_SCALE = 0.25  # of the window; larger errors saturate; the arrow of the colour bar shows it
MAX_BINS = 20
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # distinct for colour-blind readers too
INK = "#1f2933"
GREY: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
ERROR: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": ERROR_SCALE, "interpolation": "nearest"}
ERROR_LABEL = "absolute error (window = 0 to 1)"


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


def draw_frames(path: Path, picture: Picture) -> None:
    """Save original, reconstruction and absolute error of the chosen slices (rows) and phases (column triples).

    Args:
        path: a .png file.
        picture: the patient.
    """
    height, width = _size_mm(picture)
    rows, columns = len(picture.slices), 3 * len(picture.phases)
    cell = 2.1
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
                    ax.set_title(f"{phase_name}\n{kind}", fontsize=8, color=INK)
        row[0].set_ylabel(slice_name, fontsize=8, color=INK)
    figure.colorbar(shown, ax=axes, label=ERROR_LABEL, extend="max", fraction=0.03, pad=0.01)
    figure.suptitle(picture.caption, fontsize=9, color=INK)
    save(figure, path)


def draw_profile(path: Path, picture: Picture) -> None:
    """Save the motion along a line through the heart: position against phase, of original and reconstruction.

    Args:
        path: a .png file.
        picture: the patient; its middle chosen slice is shown.
    """
    z, name = picture.slices[len(picture.slices) // 2]
    height, width = _size_mm(picture)
    x, y = (cine[z, :, picture.heart_row].T for cine in (picture.original, picture.reconstruction))  # (W, T)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    place, *axes = figure.subplots(1, 4)
    place.imshow(picture.original[z, picture.phases[0][0]], extent=(0, width, height, 0), **GREY)
    place.axhline((picture.heart_row + 0.5) * picture.spacing_mm[0], color=COLORS[4], linewidth=1.5)
    place.set_title(f"the line: {name.replace(chr(10), ', ')}", fontsize=9, color=INK)
    place.set_xlabel("mm", fontsize=8)
    phases = x.shape[1]
    titles = ("original", "reconstruction", "error")
    for ax, image, style, title in zip(axes, (x, y, abs(x - y)), (GREY, GREY, ERROR), titles, strict=True):
        shown = ax.imshow(image, aspect="auto", extent=(0.5, phases + 0.5, width, 0), **style)
        ax.set_title(title, fontsize=9, color=INK)
        ax.set_xlabel("phase", fontsize=8)
        ax.set_xticks(sorted({1, *range(5, phases + 1, 5)}) if phases > 5 else range(1, phases + 1))
    axes[0].set_ylabel("position along the line (mm)", fontsize=8)
    figure.colorbar(shown, ax=axes, label=ERROR_LABEL, extend="max", fraction=0.03, pad=0.01)
    figure.suptitle(picture.caption, fontsize=9, color=INK)
    save(figure, path)


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


def draw_phase_curve(path: Path, curves: Mapping[str, Sequence[Sequence[float]]], caption: str) -> None:
    """Save PSNR over the cardiac cycle, one line a model or baseline; the first has a band of one standard deviation.

    Args:
        path: a .png file.
        curves: name -> (T,) PSNR in dB of each patient.
        caption: data and rate.
    """
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    ax = figure.subplots()
    for index, (name, patients) in enumerate(curves.items()):
        place, mean, std = over_the_cycle(patients)
        color = COLORS[index % len(COLORS)]
        if index == 0 and len(patients) > 1:
            ax.fill_between(place, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
        ax.plot(place, mean, color=color, linewidth=2 if index == 0 else 1.2, marker="o", markersize=3, label=name)
    ax.set_xlim(0, 1)
    ax.set_xlabel("place in the stored cycle (fraction of T)", fontsize=9)
    ax.set_ylabel("PSNR (dB)", fontsize=9)
    ax.grid(color="#e4e7eb", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_title(caption, fontsize=9, color=INK)
    save(figure, path)


def _size_mm(picture: Picture) -> tuple[float, float]:
    height, width = picture.original.shape[2:]
    return height * picture.spacing_mm[0], width * picture.spacing_mm[1]


def save(figure: Figure, path: Path) -> None:
    """Write a picture, whole or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, facecolor="white", metadata={"Software": None})
