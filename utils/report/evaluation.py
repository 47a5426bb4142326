"""The evaluation report as text: comparison table, per-patient CSV, and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.metrics import cohort
from utils.report import heart, page
from utils.report.columns import COLUMNS, COMPARED, FIGURES, HEART, PATIENT, QUALITY

MARK = "†"  # at figures of the heart by a segmenter that taught the model
NOTE = "Research use only, not a medical device. A generative decoder may invent anatomy."


class Figure(NamedTuple):
    """One picture of the page: its heading, what it shows (with rate and data), and the PNG file."""

    heading: str
    text: str
    path: Path


def summarize(rows: Mapping[str, Sequence[Mapping[str, Any]]], notes: Mapping[str, str]) -> dict[str, Any]:
    """Means and spreads of every model and baseline; the last model's also at the top.

    Args:
        rows: model -> one row a patient, with the figures and `baselines`: name -> its figures.
        notes: baseline -> what it is.

    Returns:
        {"model", "mean", "std", "n", "n_of", "models", "baselines", "cohort", "note"}.
    """
    model, last = list(rows.items())[-1]
    models = {name: cohort(patients, shown(patients)) for name, patients in rows.items()}
    baselines = {
        name: {**cohort([row["baselines"][name] for row in last], scored(last)), "note": note}
        for name, note in notes.items()
    }
    counted = {
        "patients": len(last),
        "slices": sum(row["slices"] for row in last),
        "frames": sum(row["slices"] * row["phases"] for row in last),
    }
    hearts = heart.summarize(last)
    mean = {**models[model]["mean"], **{name: hearts.pop(name) for name in ("dice", "dice_original") if name in hearts}}
    return {
        "model": model,
        **models[model],
        "mean": mean,
        **hearts,
        "models": models,
        "baselines": baselines,
        "cohort": counted,
        "note": NOTE,
    }


def shown(patients: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The figures that a table shows of patients: those of the heart where any of them was judged."""
    return (*FIGURES, *(HEART if heart.judged(patients) else ()))


def scored(patients: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The figures of a baseline."""
    return (*QUALITY, *(("dice_mean",) if heart.judged(patients) else ()))


def public_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments as a report may show them: of absolute paths the last part alone, and nothing unset."""

    def public(value: Any) -> Any:
        if isinstance(value, list):
            return [public(entry) for entry in value]
        if isinstance(value, Path):
            return value.name if value.is_absolute() else value.as_posix()
        return value

    return {name: public(value) for name, value in arguments.items() if value is not None}


def command_line(script: str, arguments: Mapping[str, Any]) -> str:
    """The command that `public_arguments` describes, quoted for a shell."""
    values = {name: value if isinstance(value, list) else [value] for name, value in arguments.items()}
    words = [[f"--{name}", *(str(value) for value in given if value is not True)] for name, given in values.items()]
    return shlex.join(["python", script, *(word for group in words for word in group)])


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The patients of best, median and worst PSNR, each once: name -> row."""
    ranked = sorted(rows, key=lambda row: -row["psnr"])
    places = {len(ranked) // 2: "median", len(ranked) - 1: "worst", 0: "best"}  # of equal places the later name wins
    return {name: ranked[place] for place, name in sorted(places.items())}


def number(value: float | None, decimals: int) -> str:
    """A figure as text; a dash where it does not apply."""
    if value is None or math.isnan(value):
        return "–"
    return "exact" if math.isinf(value) else f"{value:,.{decimals}f}"


def comparison(summary: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of all models and baselines.

    Args:
        summary: as in summary.json: `models` and `baselines`, each name -> {"mean", "std", ...}.

    Returns:
        (headings, one row a model or baseline); cells are `mean ± std` for PSNR and SSIM and the mean for the rest,
        with the number of patients where the figure could be taken of fewer reconstructions than originals.
    """
    known = [entry["mean"] for entry in summary["models"].values()]
    keys = [key for key in COMPARED if any(key in mean for mean in known)]
    rows, taught = [], taught_models(summary)
    for name, entry in [*summary["models"].items(), *summary["baselines"].items()]:
        cells = [name if name in summary["models"] else f"baseline: {name}"]
        for key in keys:
            cell = number(entry["mean"].get(key), COLUMNS[key].decimals)
            spread = number(entry["std"].get(key), COLUMNS[key].decimals)
            cell = f"{cell} ± {spread}" if key in ("psnr", "ssim") and spread != "–" else cell
            measured, possible = entry["n_of"].get(key, 0), entry["n_of"].get(f"{key}_original", 0)
            cell = f"{cell} (n = {measured})" if 0 < measured < possible else cell
            source = name if name in summary["models"] else summary["model"]  # a baseline is one of the reported model
            cells.append(f"{cell} {MARK}" if source in taught and key in HEART and cell != "–" else cell)
        rows.append(cells)
    return ["", *(COLUMNS[key].heading for key in keys)], rows


def taught_models(summary: Mapping[str, Any]) -> set[str]:
    """The models that the reference segmenter of their hearts taught."""
    independent = summary.get("reference_segmenter", {}).get("independent_of", {})
    return {name for name, free in independent.items() if not free}


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [headings, *rows]
    )


def csv_text(rows: Mapping[str, Sequence[Mapping[str, Any]]], heart_columns: Sequence[str] = ()) -> str:
    """One line a model and patient; a figure that does not apply is an empty cell.

    Args:
        rows: model -> one row a patient.
        heart_columns: keys of the heart's figures, written where any patient has them.

    Returns:
        CSV text with a heading line.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heart = heart_columns if any(heart.judged(patients) for patients in rows.values()) else ()
    heart = ("segmenter_taught_model", *heart) if heart else ()
    writer.writerow(["model", *PATIENT, *FIGURES, *heart])
    for model, patients in rows.items():
        for row in patients:
            values = [row.get(key) for key in (*FIGURES, *heart)]
            found = [v if v is not None and math.isfinite(v) else "" for v in values]
            writer.writerow([model, *(row[key] for key in PATIENT), *found])
    return stream.getvalue()


def html_page(summary: Mapping[str, Any], patients: Sequence[Mapping[str, Any]], figures: Sequence[Figure]) -> str:
    """The report as one page that needs no other file: styles and pictures are inside it.

    Args:
        summary: as in summary.json.
        patients: rows of the reported model, as in per_patient.csv.
        figures: pictures in order.

    Returns:
        HTML text.
    """
    cohort = summary["cohort"]
    notes = [*summary["notes"], *(f"{name}: {entry['note']}" for name, entry in summary["baselines"].items())]
    figures_shown = shown(patients)
    columns = [*PATIENT, *figures_shown]
    headings = [*PATIENT, *(COLUMNS[key].heading for key in figures_shown)]
    cells = [[_cell(row.get(key), key) for key in columns] for row in sorted(patients, key=lambda row: row["patient"])]
    lead = (
        f"{summary['model']} on {summary['data']}, split {summary['split']}: patients {cohort['patients']}, "
        f"slices {cohort['slices']}, frames {cohort['frames']} ({summary['modality']})"
    )
    body = [
        _tiles(summary["mean"], MARK if summary["model"] in taught_models(summary) else ""),
        "<section><h2>Comparison</h2><p>Means over patients (each patient counts once); ± is the standard deviation "
        "over patients. Baselines show what a decoder scores that knows nothing, or the wrong thing, of the "
        "patient.</p>",
        page.table(*comparison(summary), mark=summary["model"]),
        "<ul>" + "".join(f"<li>{page.text(note)}</li>" for note in notes) + "</ul></section>",
        *_heart(summary, patients),
        "<section><h2>Pictures</h2>",
        *(page.picture(figure.heading, figure.text, figure.path.read_bytes()) for figure in figures),
        "</section>",
        f"<section><h2>Patients</h2><p>Of {page.text(summary['model'])}; all models are in per_patient.csv.</p>",
        page.table(headings, cells) + "</section>",
        "<section><h2>How to read the figures</h2><dl>",
        "".join(f"<dt>{page.text(c.heading)}</dt><dd>{page.text(c.meaning)}</dd>" for c in COLUMNS.values()),
        f"</dl><p>Made by</p><pre>{page.text(summary['command_line'])}</pre></section>",
    ]
    return page.page("TiTok-MRI evaluation", lead, summary["note"], body)


def caption(patient: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """One line with what a figure of a patient has to state: model, data, quality, rate.

    Args:
        patient: a row of per_patient.csv.
        summary: as in summary.json.

    Returns:
        Plain text.
    """
    quality = f"{number(patient['psnr'], 2)} dB, SSIM {number(patient['ssim'], 3)}"
    rate = f"{number(patient['bits_per_frame'], 0)} bits a frame, {number(patient['ratio_int16'], 0)}x against int16"
    return f"{patient['patient']} ({summary['data']}, {summary['split']}) by {summary['model']}: {quality} at {rate}"


def _cell(value: Any, key: str) -> str:
    return number(value, COLUMNS[key].decimals) if key in COLUMNS else str(value)


def _tiles(mean: Mapping[str, Any], mark: str) -> str:
    wanted = ("psnr", "ssim", "psnr_heart", "dice_mean", "lv_ef_error", "bits_per_frame", "ratio_int16")
    return page.tiles(
        (f"{number(mean[key], COLUMNS[key].decimals)}{mark if key in HEART else ''}", COLUMNS[key].heading)
        for key in wanted
        if key in mean
    )


def _heart(summary: Mapping[str, Any], patients: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section on the heart; nothing where nobody judged it."""
    hearts = heart.judged(patients)
    if not hearts:
        return []
    found = {**summary, **{name: summary["mean"][name] for name in ("dice", "dice_original")}}
    titles = ("Structures", "Volumes against the ground truth, bias and 95 % limits of agreement", "Diagnoses")
    tables = zip(titles, heart.tables(found, hearts), strict=True)
    text = "All figures by one segmenter, which is scored on the originals beside the reconstructions. It is no reader."
    if summary["model"] in taught_models(summary):
        text += f" {MARK} This segmenter taught the model, so all figures of this section favour it."
    return [
        f"<section><h2>Heart</h2><p>{page.text(text)} Labelled patients: {len(hearts)}.</p>",
        *(f"<h3>{page.text(title)}</h3>{page.table(*table)}" for title, table in tables),
        "</section>",
    ]
