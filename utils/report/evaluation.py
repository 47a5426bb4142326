"""The evaluation report: the summary of a split, and one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.metrics import cohort
from utils.report import heart
from utils.report.columns import COLUMNS, HEART_METRICS, TILES
from utils.report.page import data_url, render
from utils.report.tables import (
    MARK,
    baseline_metrics_of,
    comparison,
    metric_text,
    metrics_of,
    number,
    patient_table,
    taught_models,
)

NOTE = "Research use only, not a medical device. A generative decoder may invent anatomy."
Rows = Sequence[Mapping[str, Any]]


class Figure(NamedTuple):
    """One picture of the page: its heading, what it shows (with rate and data), and the PNG file."""

    heading: str
    text: str
    path: Path


def summarize(models: Mapping[str, Rows], notes: Mapping[str, str]) -> dict[str, Any]:
    """Means and spreads of every model and baseline; those of the last model also at the top.

    Args:
        models: model -> one row a patient, with the metrics and `baselines`: name -> metrics of that baseline.
        notes: baseline -> its description.

    Returns:
        {"model", "mean", "std", "n", "n_of", "models", "baselines", "cohort", "note"}, and the heart's part where
        hearts were scored.
    """
    model, patients = list(models.items())[-1]
    entries = {name: cohort(rows, metrics_of(rows)) for name, rows in models.items()}
    baselines = {
        name: {**cohort([row["baselines"][name] for row in patients], baseline_metrics_of(patients)), "note": note}
        for name, note in notes.items()
    }
    counts = {
        "patients": len(patients),
        "slices": sum(row["slices"] for row in patients),
        "frames": sum(row["slices"] * row["phases"] for row in patients),
    }
    hearts = heart.summarize(patients)
    dice = {name: hearts.pop(name) for name in ("dice", "dice_original") if name in hearts}
    return {
        "model": model,
        **entries[model],
        "mean": {**entries[model]["mean"], **dice},
        **hearts,
        "models": entries,
        "baselines": baselines,
        "cohort": counts,
        "note": NOTE,
    }


def choose(patients: Rows) -> dict[str, Mapping[str, Any]]:
    """The patients of best, median and worst PSNR, each once: name -> row."""
    ranked = sorted(patients, key=lambda row: -row["psnr"])
    ranks = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # of equal ranks the later name wins
    return {name: ranked[rank] for rank, name in sorted(ranks.items())}


def caption(patient: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """One line that states model, data, quality and rate below a picture of a patient.

    Args:
        patient: a row of per_patient.csv.
        summary: as in summary.json.

    Returns:
        Plain text.
    """
    quality = f"{number(patient['psnr'], 2)} dB, SSIM {number(patient['ssim'], 3)}"
    place = f"{patient['patient']} ({summary['data']}, {summary['split']}) by {summary['model']}"
    return f"{place}: {quality} at {rate_text(patient)}"


def rate_text(metrics: Mapping[str, Any]) -> str:
    """Bits a frame and the ratio against int16 in words, for a patient or a mean; `an unknown rate` without bits."""
    bits, ratio = metrics["bits_per_frame"], metrics["ratio_int16"]
    if bits is None or math.isnan(bits):
        return "an unknown rate"
    return f"{number(bits, 0)} bits a frame, {number(ratio, 0)}x against int16"


def html_page(summary: Mapping[str, Any], patients: Rows, figures: Sequence[Figure]) -> str:
    """The report as one page that needs no other file: styles and pictures are inside it.

    Args:
        summary: as in summary.json.
        patients: rows of the reported model, as in per_patient.csv.
        figures: pictures in order.

    Returns:
        HTML text.
    """
    return render("evaluation.html.j2", page_values(summary, patients, figures))


def page_values(summary: Mapping[str, Any], patients: Rows, figures: Sequence[Figure]) -> dict[str, Any]:
    """The values of the template evaluation.html.j2, as plain data; arguments as in `html_page`."""
    counts = summary["cohort"]
    lead = (
        f"{summary['model']} on {summary['data']}, split {summary['split']}: patients {counts['patients']}, "
        f"slices {counts['slices']}, frames {counts['frames']} ({summary['modality']})"
    )
    return {
        "title": "TiTok-MRI evaluation",
        "lead": lead,
        "warning": summary["note"],
        "model": summary["model"],
        "tiles": _tiles(summary),
        "comparison": comparison(summary),
        "notes": [*summary["notes"], *(f"{name}: {entry['note']}" for name, entry in summary["baselines"].items())],
        "heart": _heart(summary, patients),
        "figures": [
            {"heading": figure.heading, "caption": figure.text, "source": data_url(figure.path.read_bytes())}
            for figure in figures
        ],
        "patients": patient_table(patients),
        "meanings": [(column.heading, column.meaning) for column in COLUMNS.values()],
        "command_line": summary["command_line"],
    }


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The main means of the reported model."""
    marked = HEART_METRICS if summary["model"] in taught_models(summary) else ()
    values = {key: metric_text(summary["mean"], key) for key in TILES if key in summary["mean"]}
    return [
        {"value": f"{value} {MARK}" if key in marked and value != "–" else value, "name": COLUMNS[key].heading}
        for key, value in values.items()
    ]


def _heart(summary: Mapping[str, Any], patients: Rows) -> dict[str, Any] | None:
    """The section on the heart; None where no heart was scored."""
    scored = heart.scored_patients(patients)
    if not scored:
        return None
    hearts = {**summary, **{name: summary["mean"][name] for name in ("dice", "dice_original")}}
    titles = ("Structures", "Volumes against the ground truth, bias and 95 % limits of agreement", "Diagnoses")
    return {
        "patients": len(scored),
        "mark": MARK if summary["model"] in taught_models(summary) else "",
        "tables": list(zip(titles, heart.tables(hearts, scored), strict=True)),
    }
