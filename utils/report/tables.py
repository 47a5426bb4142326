"""The tables of an evaluation: models beside baselines, patients, the terminal, and the CSV file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from utils.report import heart
from utils.report.columns import BASELINE_METRICS, COLUMNS, COMPARED, HEART_METRICS, METRICS, PATIENT, Table

MARK = "†"  # of heart metrics by a segmenter that was used in the training of the model
UNDEFINED = "–"  # cell of a metric that does not apply
Rows = Sequence[Mapping[str, Any]]


class Shown(NamedTuple):
    """A table of a page: its columns whose cells differ, and a sentence on the others, empty if there are none."""

    headings: list[str]
    rows: list[list[str]]
    note: str


def hide_equal(table: Table) -> Shown:
    """Leave out the columns whose cells are all equal or all empty, and say so in a sentence.

    Args:
        table: its first column names the rows and is kept. Of a single row, only empty cells are left out.
    """
    columns = list(zip(table.headings, zip(*table.rows, strict=True), strict=True))
    empty = [heading for heading, cells in columns[1:] if set(cells) == {UNDEFINED}]
    equal = {heading: cells[0] for heading, cells in columns[1:] if len(cells) > len(set(cells)) == 1}
    kept = [i for i, heading in enumerate(table.headings) if i == 0 or heading not in (*empty, *equal)]
    values = "; ".join(f"{heading}: {cell}" for heading, cell in equal.items() if heading not in empty)
    note = f"The same in all rows: {values}." if values else ""
    note += f" Without a value: {'; '.join(empty)}." if empty else ""
    return Shown([table.headings[i] for i in kept], [[row[i] for i in kept] for row in table.rows], note.strip())


def metrics_of(patients: Rows) -> tuple[str, ...]:
    """The metrics of a model; those of the heart only where at least one patient has them."""
    return (*METRICS, *(HEART_METRICS if heart.scored_patients(patients) else ()))


def baseline_metrics_of(patients: Rows) -> tuple[str, ...]:
    """The metrics of a baseline; Dice only where at least one patient has it."""
    return (*BASELINE_METRICS, *(("dice_mean",) if heart.scored_patients(patients) else ()))


def number(value: float | None, decimals: int) -> str:
    """A number as text; a dash where it does not apply."""
    if value is None or math.isnan(value):
        return UNDEFINED
    return "exact" if math.isinf(value) else f"{value:,.{decimals}f}"


def metric_text(row: Mapping[str, Any], key: str) -> str:
    """The value of a metric as text, with the decimals of its column."""
    return number(row.get(key), COLUMNS[key].decimals)


def comparison(summary: Mapping[str, Any]) -> Table:
    """The table of all models and baselines.

    Args:
        summary: as in summary.json: `models` and `baselines`, each name -> {"mean", "std", "n_of"}.

    Returns:
        One row a model or baseline; cells are `mean ± std` for PSNR and SSIM and the mean for the rest. A metric that
        is undefined for some reconstructions, but not for their originals, has the number of its patients beside it.
    """
    return _compared(summary, COMPARED, [*summary["models"]], [*summary["baselines"]])


def image_table(summary: Mapping[str, Any]) -> Table:
    """The part of `comparison` on images and rates of all models."""
    return _compared(summary, [key for key in COMPARED if key not in HEART_METRICS], [*summary["models"]])


def heart_table(summary: Mapping[str, Any]) -> Table:
    """The part of `comparison` on hearts of all models; without columns where no heart was scored."""
    return _compared(summary, [key for key in COMPARED if key in HEART_METRICS], [*summary["models"]])


def baseline_table(summary: Mapping[str, Any]) -> Table:
    """The part of `comparison` on the reported model and its baselines."""
    keys = [key for key in COMPARED if key in (*BASELINE_METRICS, "dice_mean")]
    return _compared(summary, keys, [summary["model"]], [*summary["baselines"]])


def _compared(
    summary: Mapping[str, Any], keys: Sequence[str], models: Sequence[str], baselines: Sequence[str] = ()
) -> Table:
    """The given metrics, where at least one model has them, of the given models and baselines."""
    keys = [key for key in keys if any(key in entry["mean"] for entry in summary["models"].values())]
    dependent = dependent_models(summary)
    entries = [(name, name, summary["models"][name]) for name in models]
    entries += [(f"baseline: {name}", summary["model"], summary["baselines"][name]) for name in baselines]
    rows = []
    for name, model, entry in entries:  # baselines are those of the reported model
        marked = HEART_METRICS if model in dependent else ()
        rows.append([name, *(_comparison_cell(entry, key, key in marked) for key in keys)])
    return Table(["", *(COLUMNS[key].heading for key in keys)], rows)


def _comparison_cell(entry: Mapping[str, Any], key: str, marked: bool) -> str:
    cell, spread = metric_text(entry["mean"], key), metric_text(entry["std"], key)
    if cell == UNDEFINED:
        return cell
    if key in ("psnr", "ssim") and spread != UNDEFINED:
        cell = f"{cell} ± {spread}"
    reconstructions, originals = entry["n_of"].get(key, 0), entry["n_of"].get(f"{key}_original", 0)
    if 0 < reconstructions < originals:
        cell = f"{cell} (n = {reconstructions})"
    return f"{cell} {MARK}" if marked else cell


def dependent_models(summary: Mapping[str, Any]) -> set[str]:
    """Return the models in whose training the reference segmenter was used."""
    independent = summary.get("reference_segmenter", {}).get("independent_of", {})
    return {name for name, is_independent in independent.items() if not is_independent}


def patient_table(patients: Rows) -> Table:
    """The table of the patients of one model, sorted by name."""
    metrics = metrics_of(patients)
    rows = [
        [*(str(row[key]) for key in PATIENT), *(metric_text(row, key) for key in metrics)]
        for row in sorted(patients, key=lambda row: row["patient"])
    ]
    return Table([*PATIENT, *(COLUMNS[key].heading for key in metrics)], rows)


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal: the first column is aligned to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [headings, *rows]) for i in range(len(headings))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [headings, *rows]
    )


def csv_text(models: Mapping[str, Rows], heart_columns: Sequence[str] = ()) -> str:
    """One line a model and patient; a metric that does not apply is an empty cell.

    Args:
        models: model -> one row a patient.
        heart_columns: keys of all heart metrics; they are written where at least one patient has them.

    Returns:
        CSV text with a line of headings.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = list(METRICS)
    if heart_columns and any(heart.scored_patients(patients) for patients in models.values()):
        keys += ["segmenter_taught_model", *heart_columns]
    writer.writerow(["model", *PATIENT, *keys])
    for model, patients in models.items():
        for row in patients:
            values = [row.get(key) for key in keys]
            cells = [value if value is not None and math.isfinite(value) else "" for value in values]
            writer.writerow([model, *(row[key] for key in PATIENT), *cells])
    return stream.getvalue()
