"""The report's pictures of the heart: contours of ground truth and reference segmenter, and agreement of volumes.

Axes: H height, W width, D slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.clinical import bland_altman
from utils.labels import STRUCTURES
from utils.report.drawing.figures import GREY, INK, Picture, save_both

CONTOURS = {"RV": "#56b4e9", "MYO": "#e69f00", "LV": "#cc79a7"}  # distinct for colour-blind readers too

Labels = Mapping[str, np.ndarray]  # "ED" and "ES", as far as known -> (H, W, D)


def draw_overlays(path: Path, picture: Picture, truth: Labels, original: Labels, decoded: Labels) -> bytes:
    """Save contours of ground truth and segmenter on the original, and of the segmenter on the reconstruction.

    Args:
        path: a .png file.
        picture: the patient; its phases are those of `truth`, in the same order.
        truth: ground truth.
        original: labels of the original by the reference segmenter.
        decoded: labels of the reconstruction by the reference segmenter.

    Returns:
        The same figure as SVG.
    """
    rows, columns = len(picture.slices), 3 * len(truth)
    top, left = heart_box(list(truth.values()), picture.spacing_mm)
    cell = 1.75  # inches
    figure = Figure(figsize=(cell * columns, cell * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place, (z, slice_name) in enumerate(picture.slices):
        axes[place][0].set_ylabel(slice_name, fontsize=9, color=INK)
        for index, (name, (phase, phase_name)) in enumerate(zip(truth, picture.phases, strict=True)):
            shown = (
                ("original, truth", picture.original, truth),
                ("original, segmented", picture.original, original),
                ("reconstruction, segmented", picture.reconstruction, decoded),
            )
            for ax, (title, image, labels) in zip(axes[place][3 * index : 3 * index + 3], shown, strict=True):
                ax.imshow(image[z, phase][top, left], aspect=picture.spacing_mm[0] / picture.spacing_mm[1], **GREY)
                outline(ax, labels[name][top, left, z])
                ax.set_xticks([])
                ax.set_yticks([])
                if place == 0:
                    ax.set_title(f"{phase_name}\n{title}", fontsize=9, color=INK)
    lines = [Line2D([], [], color=color, label=name) for name, color in CONTOURS.items()]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.suptitle(picture.caption, fontsize=9, color=INK)
    return save_both(figure, path)


def outline(ax: object, labels: np.ndarray) -> None:  # (H, W)
    """Draw the contour of each structure; of MYO the epicardium, since its inner contour is that of LV."""
    for name, label in STRUCTURES.items():
        inside = labels == label if name != "MYO" else labels >= label  # epicardium: wall and cavity
        if inside.any():
            ax.contour(inside, [0.5], colors=CONTOURS[name], linewidths=1.3)  # type: ignore[attr-defined]


def heart_box(masks: Sequence[np.ndarray], spacing_mm: Sequence[float], margin_mm: float = 20.0) -> tuple[slice, slice]:
    """Rows and columns around all labels, with a margin; the whole image without labels."""
    anywhere = np.logical_or.reduce([mask.any(axis=2) for mask in masks])
    box = []
    for axis in (0, 1):
        places = np.flatnonzero(anywhere.any(axis=1 - axis))
        margin = round(margin_mm / spacing_mm[axis])
        length = anywhere.shape[axis]
        low, high = (places[0] - margin, places[-1] + margin + 1) if len(places) else (0, length)
        box.append(slice(max(0, int(low)), min(length, int(high))))
    return box[0], box[1]


def draw_agreement(path: Path, pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], caption: str) -> bytes:
    """Save one Bland-Altman plot for each quantity.

    Args:
        path: a .png file.
        pairs: name with unit -> (ground truth, measured), one value a patient.
        caption: model, data and reference segmenter.

    Returns:
        The same figure as SVG.

    Source: Bland and Altman, Lancet 327, 1986.
    """
    figure = Figure(figsize=(3.8 * len(pairs), 3.5), layout="constrained")
    for ax, (name, (truth, measured)) in zip(
        figure.subplots(1, len(pairs), squeeze=False)[0], pairs.items(), strict=True
    ):
        limits = bland_altman(truth, measured)
        a, b = np.asarray(truth, float), np.asarray(measured, float)
        ax.scatter((a + b) / 2, b - a, s=22, color="#0072b2")
        ax.axhline(0, color="#9aa5b1", linewidth=0.8)
        for key, style in (("bias", "-"), ("low", "--"), ("high", "--")):
            if np.isfinite(limits[key]):
                ax.axhline(limits[key], color="#d55e00", linestyle=style, linewidth=1.2)
        ax.set_xlabel(f"mean of truth and reconstruction: {name}", fontsize=9)
        ax.set_ylabel("reconstruction − truth", fontsize=9)
        text = f"bias {limits['bias']:.1f}, limits {limits['low']:.1f} to {limits['high']:.1f}, n = {limits['n']}"
        ax.set_title(text, fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(caption, fontsize=9, color=INK)
    return save_both(figure, path)
