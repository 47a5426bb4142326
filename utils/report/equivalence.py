"""The report of clinical equivalence: headline, changes of each setting, agreement of volumes, groups, figure, page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils.clinical import DISTANCES, KEY_FRAMES
from utils.labels import STRUCTURES
from utils.report.columns import Table
from utils.report.drawing.figures import COLORS, INK, legend_below, log_axis, plain_panel, save
from utils.report.heart import MEASURED
from utils.report.page import data_url, render
from utils.report.tables import number

Rows = Sequence[Mapping[str, Any]]
PLACES = tuple(f"{name}_{phase}" for phase in KEY_FRAMES for name in STRUCTURES)
SHOWN_MARGINS = 8  # range of the axis of a change, in margins
WARNING = "WARNING:"  # how a note begins that stands at the top of the page
MARGIN = 1.15  # of the axis of ratios, as a factor
CHANGES = {  # key of a change -> heading, decimals, whether it has two sides
    "dice": ("decrease of Dice", 4, False),
    "ef_bias": ("bias of LV EF (points)", 2, True),
    "ef_limits": ("wider limits of LV EF (points)", 2, False),
}


def ratio_text(ratio: float) -> str:
    """A ratio of the headline; 0 is below all measured ratios, inf above them."""
    return "below all measured" if ratio == 0 else "above all measured" if math.isinf(ratio) else f"{ratio:,.0f}x"


def interval_text(ends: Sequence[float], decimals: int) -> str:
    """An interval, such as `0.001 to 0.012`."""
    return " to ".join(number(end, decimals) for end in ends)


def headline_table(rows: Rows) -> Table:
    """The highest equivalent ratio of each method by each segmenter.

    Args:
        rows: `segmenter`, `method`, `ratio`, `interval`, `bytes_per_frame`, `certain_ratio`, `lowest` and `highest`
            measured ratio.
    """
    cells = [
        [
            row["method"],
            row["segmenter"],
            ratio_text(row["ratio"]),
            " to ".join(map(ratio_text, row["interval"])),
            number(row["bytes_per_frame"], 1),
            "none measured" if row["certain_ratio"] is None else ratio_text(row["certain_ratio"]),
            f"{row['lowest']:,.0f}x to {row['highest']:,.0f}x",
        ]
        for row in rows
    ]
    headings = [
        "",
        "segmenter",
        "highest equivalent ratio",
        "95 % interval",
        "bytes/frame",
        "whole intervals",
        "measured",
    ]
    return Table(headings, cells)


def change_table(rows: Rows) -> Table:
    """The changes of each setting by one segmenter, with intervals and p values."""
    cells = []
    for row in rows:
        cell = [row["method"], row["setting"], number(row["bytes_per_frame"], 1), f"{row['ratio_int16']:,.0f}x"]
        for key, (_, decimals, _) in CHANGES.items():
            cell.append(f"{number(row[key], decimals)} ({interval_text(row[f'{key}_interval'], decimals)})")
        cells.append([*cell, number(row["p_dice"], 4), number(row["p_ef"], 4), "yes" if row["equivalent"] else "no"])
    headings = ["", "setting", "bytes/frame", "ratio", *(heading for heading, *_ in CHANGES.values())]
    return Table([*headings, "p, Dice", "p, EF", "equivalent"], cells)


def structure_table(rows: Rows) -> Table:
    """Dice of each structure and key frame against the ground truth, and means of Dice and distances."""
    cells = []
    for row in rows:
        dice = [number(row.get(f"dice_{place}"), 3) for place in PLACES]
        means = [number(row[f"dice_mean{against}"], 3) for against in ("", "_to_original")]
        means += [number(row[f"{kind}_mean{against}"], 2) for kind in DISTANCES for against in ("", "_to_original")]
        cells.append([row["method"], row["setting"], *dice, *means])
    headings = ["", "setting", *(place.replace("_", " ") for place in PLACES), "mean", "mean, to original"]
    names = {"hd95": "HD95 (mm)", "assd": "ASSD (mm)"}
    return Table([*headings, *(f"{names[k]}{a}" for k in DISTANCES for a in ("", ", to original"))], cells)


def agreement_table(rows: Rows) -> Table:
    """Bias, limits of agreement and correlation of each quantity."""
    cells = [
        [
            row["method"],
            row["setting"],
            MEASURED[row["quantity"]],
            row["against"],
            str(row["n"]),
            f"{number(row['bias'], 2)} ({interval_text(row['bias_interval'], 2)})",
            interval_text((row["low"], row["high"]), 2),
            f"{number(row['correlation'], 3)} ({interval_text(row['correlation_interval'], 3)})",
        ]
        for row in rows
    ]
    return Table(
        ["", "setting", "", "against", "n", "bias (95 % interval)", "limits of agreement", "correlation"], cells
    )


def group_table(rows: Rows) -> Table:
    """Changes by diagnosis; the worst one of each setting is marked."""
    cells = [
        [
            row["method"],
            row["setting"],
            row["group"] + (" (worst)" if row["worst"] else ""),
            str(row["n"]),
            number(row["dice"], 4),
            number(row["ef_bias"], 2),
        ]
        for row in rows
    ]
    return Table(["", "setting", "group", "n", *(CHANGES[key][0] for key in ("dice", "ef_bias"))], cells)


def csv_text(rows: Rows) -> str:
    """One line a row; an interval becomes two columns, an unknown value an empty cell."""
    flat = []
    for row in rows:
        line: dict[str, Any] = {}
        for key, value in row.items():
            line |= {f"{key}_low": value[0], f"{key}_high": value[1]} if isinstance(value, tuple) else {key: value}
        flat.append({key: "" if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()})
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def draw(path: Path, summary: Mapping[str, Any]) -> None:
    """Save the three changes over the ratio: a row of pictures a segmenter, a curve and its interval a method.

    Args:
        path: a .png file.
        summary: as in equivalence.json.
    """
    segmenters, margins = summary["segmenters"], summary["margins"]
    figure = Figure(figsize=(13, 3.7 * len(segmenters) + 0.9), layout="constrained")
    axes = figure.subplots(len(segmenters), len(CHANGES), squeeze=False)
    for row, segmenter in zip(axes, segmenters, strict=True):
        ratios = [point["ratio_int16"] for point in summary["points"] if point["segmenter"] == segmenter]
        limits = min(ratios) / MARGIN, max(ratios) * MARGIN  # also if no change is known
        for ax, (key, (heading, _, two_sided)) in zip(row, CHANGES.items(), strict=True):
            _draw_change(ax, summary, segmenter, key)
            low, high = (-SHOWN_MARGINS, SHOWN_MARGINS) if two_sided else (-SHOWN_MARGINS / 2, SHOWN_MARGINS)
            ax.set_ylim(low * margins[key], high * margins[key])
            ax.axhspan(-margins[key] if two_sided else ax.get_ylim()[0], margins[key], color=INK, alpha=0.07)
            ax.axhline(0, color=INK, linewidth=0.8)
            ax.set_xlim(*limits)
            log_axis(ax.xaxis)
            ax.set_xlabel("compression ratio (log scale)", fontsize=9)
            ax.set_ylabel(heading, fontsize=9)
            plain_panel(ax)
        row[1].set_title(f"segmenter {segmenter}", fontsize=10, color=INK)
    legend_below(figure)
    title = (
        f"{summary['caption']}. Bands: 95 % intervals over patients; gray: equivalent; dotted lines: highest "
        "equivalent ratios"
    )
    figure.suptitle(title, fontsize=9, color=INK)
    save(figure, path)


def _draw_change(ax: Any, summary: Mapping[str, Any], segmenter: str, key: str) -> None:
    """One change of all methods with its intervals, and their highest equivalent ratios, by one segmenter."""
    methods = list(dict.fromkeys(row["method"] for row in summary["points"]))
    for top in (row for row in summary["headline"] if row["segmenter"] == segmenter):
        color, place = COLORS[methods.index(top["method"]) % len(COLORS)], (segmenter, top["method"])
        points = [row for row in summary["points"] if (row["segmenter"], row["method"]) == place]
        ratio, value = ([row[name] for row in points] for name in ("ratio_int16", key))
        ax.fill_between(ratio, *zip(*(row[f"{key}_interval"] for row in points), strict=True), color=color, alpha=0.15)
        ax.plot(ratio, value, color=color, linewidth=1.8, marker="o", markersize=4, label=top["method"])
        if 0 < top["ratio"] < math.inf:
            ax.axvline(top["ratio"], color=color, linewidth=1.2, linestyle=":")


def html_page(summary: Mapping[str, Any], picture: Path) -> str:
    """The report as one page that needs no other file.

    Args:
        summary: as in equivalence.json.
        picture: the file that `draw` wrote.

    Returns:
        HTML text.
    """

    def of(key: str, segmenter: str, nearest: bool = False) -> list[Mapping[str, Any]]:
        rows = [row for row in summary[key] if row["segmenter"] == segmenter]
        return [row for row in rows if (row["method"], row["setting"]) in shown[segmenter]] if nearest else rows

    shown = {name: set(map(tuple, settings)) for name, settings in summary["shown"].items()}
    values = {
        "title": "Clinical equivalence after compression",
        "lead": summary["caption"],
        "warning": summary["note"],
        "headline": headline_table(summary["headline"]),
        "pairs": summary["pairs"],
        "margins": summary["margins"],
        "picture": {
            "heading": "Change by compression",
            "caption": "Decrease of the mean Dice, bias of the LV EF against the original, and wider limits of "
            "agreement of the LV EF with the ground truth.",
            "source": data_url(picture.read_bytes()),
        },
        "segmenters": [
            {
                "name": name,
                "changes": change_table(of("points", name)),
                "structures": structure_table([*of("originals", name), *of("points", name)]),
                "agreement": agreement_table(of("agreement", name, nearest=True)),
                "groups": group_table(of("groups", name, nearest=True)),
            }
            for name in summary["segmenters"]
        ],
        "doubts": [note for note in summary["notes"] if note.startswith(WARNING)],
        "notes": [note for note in summary["notes"] if not note.startswith(WARNING)],
        "command_line": summary["command_line"],
    }
    return render("equivalence.html.j2", values)
