"""The report of a comparison with codecs: table of points, Bjontegaard differences, curves, one HTML page."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from utils.report.bjontegaard import LEAST_POINTS, bjontegaard
from utils.report.columns import COLUMNS, Column, Table
from utils.report.drawing.figures import COLORS, INK, legend_below, log_axis, plain_panel, save
from utils.report.page import data_url, render
from utils.report.tables import MARK, number

BYTES = "bytes_per_frame"
ORIGINAL = "original"
QUALITY = (BYTES, "ratio_int16", "psnr", "ssim", "psnr_heart")
HEART = ("dice_mean", "lv_ef_error")
SHOWN = {
    BYTES: Column(
        "bytes/frame",
        1,
        "bytes of all packets of a video codec, of all files of an image codec, or of a model's compressed file, "
        "divided by slices x phases; mean over patients",
    ),
    **{key: COLUMNS[key] for key in (*QUALITY[1:], *HEART)},
}
MARKERS = ("o", "s", "^", "D", "v")  # of models, hollow and of growing size, so that none hides another
Rows = Sequence[Mapping[str, Any]]


def curves(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each method, in the order of the rows."""
    return {name: [row for row in rows if row["method"] == name] for name in dict.fromkeys(r["method"] for r in rows)}


def differences(rows: Rows) -> list[dict[str, Any]]:
    """The Bjontegaard differences of each pair of methods with at least four points that have a PSNR.

    Returns:
        {"anchor", "method", "rate_percent", "psnr_db"} of each pair; None where the curves have no common range.
    """
    known = {name: [row for row in of if row.get("psnr") is not None] for name, of in curves(rows).items()}
    pairs = []
    for anchor, method in itertools.combinations([name for name, of in known.items() if len(of) >= LEAST_POINTS], 2):
        rate, quality = bjontegaard(
            *([row[key] for row in known[name]] for name in (anchor, method) for key in (BYTES, "psnr"))
        )
        values = {"rate_percent": rate, "psnr_db": quality}
        known_values = {key: value if math.isfinite(value) else None for key, value in values.items()}
        pairs.append({"anchor": anchor, "method": method, **known_values})
    return pairs


def csv_text(rows: Rows) -> str:
    """One line a point; a metric that does not apply is an empty cell."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = [key for key in SHOWN if any(key in row for row in rows)]
    writer.writerow(["method", "setting", *keys])
    for row in rows:
        writer.writerow([row["method"], row["setting"], *("" if row.get(key) is None else row[key] for key in keys)])
    return stream.getvalue()


def marked(summary: Mapping[str, Any]) -> Sequence[str]:
    """Return the models in whose training the segmenter of the table, the first one, was used.

    Args:
        summary: as in rate_distortion.json; `taught` maps each segmenter to the models
            in whose training it was used.
    """
    return next(iter(summary["taught"].values()), ())


def point_table(rows: Rows, original: Mapping[str, Any], marked: Sequence[str]) -> Table:
    """The table of all points, and of the original where its heart was scored.

    Args:
        rows: means of each point.
        original: means of the original; empty without a segmenter.
        marked: models in whose training the reference segmenter was used.
    """
    keys = [key for key in SHOWN if any(key in row for row in rows)]
    every = [*rows, *([{"method": ORIGINAL, "setting": "", **original}] if original else [])]

    def cell(row: Mapping[str, Any], key: str) -> str:
        text = number(row.get(key), SHOWN[key].decimals)
        return f"{text} {MARK}" if key in HEART and row["method"] in marked and text != "–" else text

    cells = [[row["method"], row["setting"], *(cell(row, key) for key in keys)] for row in every]
    return Table(["", "setting", *(SHOWN[key].heading for key in keys)], cells)


def difference_table(rows: Rows) -> Table:
    """The table of `differences`."""
    cells = [[row["method"], row["anchor"], signed(row["rate_percent"], 1), signed(row["psnr_db"], 2)] for row in rows]
    return Table(["", "against", "bytes at equal PSNR (%)", "PSNR at equal bytes (dB)"], cells)


def signed(value: float | None, decimals: int) -> str:
    """A number with its sign; a dash where it does not apply."""
    return "–" if value is None else f"{value:+.{decimals}f}"


def draw(path: Path, rows: Rows, original: Mapping[str, Any], caption: str) -> None:
    """Save PSNR, SSIM and, where scored, heart PSNR and Dice over bytes a frame; models are markers.

    Args:
        path: a .png file.
        rows: means of each point.
        original: means of the original, a dashed line; empty without a segmenter.
        caption: data and number of patients.
    """
    keys = [key for key in ("psnr", "ssim", "psnr_heart", "dice_mean") if any(row.get(key) is not None for row in rows)]
    columns = min(2, len(keys))
    height = math.ceil(len(keys) / columns)
    figure = Figure(figsize=(5.6 * columns, 3.6 * height + 0.9), layout="constrained")
    axes = figure.subplots(height, columns, squeeze=False).flat
    for ax, key in itertools.zip_longest(axes, keys):
        if key is None:
            ax.set_visible(False)
            continue
        _draw_curves(ax, rows, key)
        if original.get(key) is not None:
            ax.axhline(original[key], color=INK, linestyle="--", linewidth=1, label=ORIGINAL)
        log_axis(ax.xaxis)
        ax.set_xlabel("bytes a frame (log scale)", fontsize=9)
        ax.set_ylabel(SHOWN[key].heading, fontsize=9)
        plain_panel(ax)
    legend_below(figure)
    figure.suptitle(caption, fontsize=9, color=INK)
    save(figure, path)


def _draw_curves(ax: Any, rows: Rows, key: str) -> None:
    """One metric of all methods."""
    models = 0
    for index, (name, points) in enumerate(curves(rows).items()):
        known = sorted((row[BYTES], row[key]) for row in points if row.get(key) is not None)
        rate, value = ([point[i] for point in known] for i in (0, 1))
        color = COLORS[index % len(COLORS)]
        if points[0]["model"]:
            style: dict[str, Any] = {"marker": MARKERS[models % len(MARKERS)], "markersize": 8 + 3 * models}
            ax.plot(rate, value, linestyle="", color=color, fillstyle="none", markeredgewidth=2, label=name, **style)
            models += 1
        else:
            ax.plot(rate, value, color=color, linewidth=1.6, marker="o", markersize=4, label=name)


def html_page(summary: Mapping[str, Any], picture: Path) -> str:
    """The report as one page that needs no other file.

    Args:
        summary: as in rate_distortion.json.
        picture: the file that `draw` wrote.

    Returns:
        HTML text.
    """
    rows, original = summary["points"], summary["original"]
    values = {
        "title": "TiTok-MRI beside codecs",
        "lead": summary["caption"],
        "warning": summary["note"],
        "picture": {
            "heading": "Quality over bytes",
            "caption": f"{summary['caption']}. Curves are codecs and rate ladders, one point a setting; markers are "
            "models of one rate.",
            "source": data_url(picture.read_bytes()),
        },
        "points": point_table(rows, original, marked(summary)),
        "differences": difference_table(summary["differences"]),
        "least_points": LEAST_POINTS,
        "notes": summary["notes"],
        "meanings": [(column.heading, column.meaning) for key, column in SHOWN.items() if any(key in r for r in rows)],
        "command_line": summary["command_line"],
    }
    return render("rate_distortion.html.j2", values)
