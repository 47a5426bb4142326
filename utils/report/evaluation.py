"""The evaluation report: the summary of a split, and one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from utils.metrics import cohort
from utils.report import heart
from utils.report.columns import COLUMNS, HEART_METRICS, TILES
from utils.report.drawing.cine import Cine
from utils.report.drawing.figures import ERROR_SCALE
from utils.report.drawing.plots import RatePoint
from utils.report.page import data_url, render
from utils.report.tables import (
    MARK,
    UNDEFINED,
    baseline_metrics_of,
    baseline_table,
    dependent_models,
    heart_table,
    hide_equal,
    image_table,
    metric_text,
    metrics_of,
    number,
    patient_table,
)

NOTE = "Research use only, not a medical device. A generative decoder may invent anatomy."
Rows = Sequence[Mapping[str, Any]]


class Figure(NamedTuple):
    """One figure of the page: its heading, what it shows (with rate and data), and the SVG file."""

    heading: str
    text: str
    svg: bytes


class CineRow(NamedTuple):
    """One cine of the page: its model or patient, what it shows, and its pictures."""

    name: str
    text: str
    cine: Cine


class Patient(NamedTuple):
    """One patient by the reported model: why it was chosen, its caption, its cine (where not shown above), figures."""

    heading: str
    text: str
    cines: list[CineRow]
    figures: list[Figure]


class Pictures(NamedTuple):
    """All pictures of the page.

    Args:
        rates: PSNR and Dice over bytes a frame; None for fewer than two rates.
        cines: one patient by up to three models of the report.
        cines_text: the patient and the slice of `cines`.
        agreement: of volumes with the ground truth; None where it cannot be drawn.
        cycle: PSNR over the cycle.
        patients: the chosen patients.
    """

    rates: Figure | None
    cines: list[CineRow]
    cines_text: str
    agreement: Figure | None
    cycle: Figure
    patients: list[Patient]


class Chosen(NamedTuple):
    """A patient whose pictures are shown: name of its files, why it was chosen, and its row of per_patient.csv."""

    name: str
    reason: str
    row: Mapping[str, Any]


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


def choose(patients: Rows) -> list[Chosen]:
    """The patients of best, median and worst PSNR, and of worst Dice where hearts were scored; each patient once."""
    ranked = sorted(patients, key=lambda row: -row["psnr"])
    if len(ranked) == 1:
        return [Chosen("best", "the only patient", ranked[0])]
    ranks = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # of equal ranks the later name wins
    chosen = [Chosen(name, f"{name} PSNR", ranked[rank]) for rank, name in sorted(ranks.items())]
    scored = [row for row in heart.scored_patients(ranked) if heart.is_known(row["dice_mean"])]
    if len(scored) < 2:
        return chosen
    worst = min(scored, key=lambda row: row["dice_mean"])
    if all(one.row is not worst for one in chosen):
        return [*chosen, Chosen("worst_dice", "worst Dice", worst)]
    return [one._replace(reason=f"{one.reason} and worst Dice") if one.row is worst else one for one in chosen]


def rate_points(summary: Mapping[str, Any]) -> list[RatePoint]:
    """The models of a report whose rate is known; a model with several numbers of tokens has one point for each."""
    dependent, points = dependent_models(summary), []
    for name, entry in summary["models"].items():
        model, _, setting = name.rpartition(", ")
        label = (model if model and setting.endswith(" tokens") else name) + (f" {MARK}" if name in dependent else "")
        values = [entry["mean"].get(key, math.nan) for key in ("bits_per_frame", "psnr", "dice_mean")]
        bits, psnr, dice = (math.nan if value is None else value for value in values)
        if math.isfinite(bits) and math.isfinite(psnr):
            points.append(RatePoint(label, bits / 8, psnr, dice))
    return points


def models_in_pictures(summary: Mapping[str, Any]) -> list[str]:
    """Up to three models by rising rate: the reported one, and of the others those of lowest and of highest rate."""

    def rate(name: str) -> float:
        bits = summary["models"][name]["mean"]["bits_per_frame"]
        return bits if heart.is_known(bits) else math.inf

    others = sorted((name for name in summary["models"] if name != summary["model"]), key=rate)
    return sorted({summary["model"], *others[:1], *others[-1:]}, key=lambda name: (rate(name), name))


def caption(patient: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """One line that states model, data, quality and rate below a picture of a patient.

    Args:
        patient: a row of per_patient.csv.
        summary: as in summary.json.

    Returns:
        Plain text.
    """
    place = f"{patient['patient']} ({summary['data']}, {summary['split']}) by {summary['model']}"
    return f"{place}: {quality_text(patient)}"


def quality_text(patient: Mapping[str, Any]) -> str:
    """PSNR, SSIM, Dice where it was scored, and rate of one patient in words."""
    dice = patient.get("dice_mean")
    overlap = f", Dice {number(dice, 3)}" if heart.is_known(dice) else ""
    return f"{number(patient['psnr'], 2)} dB, SSIM {number(patient['ssim'], 3)}{overlap} at {rate_text(patient)}"


def rate_text(metrics: Mapping[str, Any]) -> str:
    """Bits a frame and the ratio against int16 in words, for a patient or a mean; `an unknown rate` without bits."""
    bits, ratio = metrics["bits_per_frame"], metrics["ratio_int16"]
    if bits is None or math.isnan(bits):
        return "an unknown rate"
    return f"{number(bits, 0)} bits a frame, {number(ratio, 0)}x against int16"


def html_page(summary: Mapping[str, Any], patients: Rows, pictures: Pictures) -> str:
    """The report as one page that needs no other file: styles and pictures are inside it.

    Args:
        summary: as in summary.json.
        patients: rows of the reported model, as in per_patient.csv.
        pictures: all pictures.

    Returns:
        HTML text.
    """
    return render("evaluation.html.j2", page_values(summary, patients, pictures))


def page_values(summary: Mapping[str, Any], patients: Rows, pictures: Pictures) -> dict[str, Any]:
    """The values of the template evaluation.html.j2, as plain data; arguments as in `html_page`."""
    counts = summary["cohort"]
    lead = (
        f"{summary['model']} on {summary['data']}, split {summary['split']}: patients {counts['patients']}, "
        f"slices {counts['slices']}, frames {counts['frames']} ({summary['modality']})"
    )
    baselines = [f"{name}: {entry['note']}" for name, entry in summary["baselines"].items()]
    return {
        "title": "TiTok-MRI evaluation",
        "lead": lead,
        "warning": summary["note"],
        "model": summary["model"],
        "tiles": _tiles(summary),
        "rates": _figure(pictures.rates),
        "strip": {"text": pictures.cines_text, "cines": [_cine(row) for row in pictures.cines]},
        "error_scale": ERROR_SCALE,
        "heart": _heart(summary, patients, pictures.agreement),
        "images": hide_equal(image_table(summary)),
        "cycle": _figure(pictures.cycle),
        "notes": summary["notes"],
        "baselines": {"table": hide_equal(baseline_table(summary)), "notes": baselines} if baselines else None,
        "shown": [
            {
                "heading": shown.heading,
                "text": shown.text,
                "cines": [_cine(row) for row in shown.cines],
                "figures": [_figure(figure) for figure in shown.figures],
            }
            for shown in pictures.patients
        ],
        "patients": hide_equal(patient_table(patients)),
        "meanings": [(column.heading, column.meaning) for column in COLUMNS.values()],
        "command_line": summary["command_line"],
    }


def _figure(figure: Figure | None) -> dict[str, str] | None:
    if figure is None:
        return None
    return {"heading": figure.heading, "caption": figure.text, "source": data_url(figure.svg, "svg+xml")}


def _cine(row: CineRow) -> dict[str, str]:
    moving = data_url(row.cine.moving, "webp") if row.cine.moving else ""
    return {"name": row.name, "text": row.text, "still": data_url(row.cine.still), "moving": moving}


def _tiles(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The main means of the reported model."""
    marked = HEART_METRICS if summary["model"] in dependent_models(summary) else ()
    values = {key: metric_text(summary["mean"], key) for key in TILES if key in summary["mean"]}
    return [
        {"value": f"{value} {MARK}" if key in marked and value != UNDEFINED else value, "name": COLUMNS[key].heading}
        for key, value in values.items()
    ]


def _heart(summary: Mapping[str, Any], patients: Rows, agreement: Figure | None) -> dict[str, Any] | None:
    """The section on the heart; None where no heart was scored."""
    scored = heart.scored_patients(patients)
    if not scored:
        return None
    hearts = {**summary, **{name: summary["mean"][name] for name in ("dice", "dice_original")}}
    titles = ("Structures", "Volumes against the ground truth, bias and 95 % limits of agreement", "Diagnoses")
    tables = zip(titles, heart.tables(hearts, scored), strict=True)
    return {
        "patients": len(scored),
        "mark": MARK if summary["model"] in dependent_models(summary) else "",
        "models": hide_equal(heart_table(summary)),
        "tables": [(title, hide_equal(table)) for title, table in tables],
        "agreement": _figure(agreement),
    }
