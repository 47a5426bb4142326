"""Hearts that compare_codecs.py measured, read from its reports: one array a quantity, with one value a patient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.equivalence import VOLUMES, Measured
from utils.files import read_json
from utils.metrics import finite_mean
from utils.report.rate_distortion import ORIGINAL
from utils.report.tables import MARK

Row = dict[str, Any]
NAME = "rate_distortion.json"


def read_results(folders: Sequence[Path]) -> list[Row]:
    """The reports of compare_codecs.py.

    Raises:
        FileNotFoundError: a folder holds no report.
        ValueError: a report has no hearts, two reports differ in data, split, field or patients, or two models have one
            name.
    """
    reports: list[Row] = []
    models: dict[str, tuple[str, Path]] = {}  # name -> hash, and the report
    for folder in folders:
        path = folder / NAME
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; give the output folder of scripts/compare_codecs.py")
        report = read_json(path)
        if not report.get("taught"):
            raise ValueError(f"{path} holds no hearts; run scripts/compare_codecs.py again with --segmenter")
        if "models" not in report:
            raise ValueError(f"{path}: was written by another version; run scripts/compare_codecs.py again")
        for name, hashed in report["models"].items():
            known, other = models.setdefault(name, (hashed, path))
            if known != hashed:
                raise ValueError(f"{path}: its model {name} is another one than in {other}; rename the folder of one, "
                                 "and run scripts/compare_codecs.py again")  # fmt: skip
        patients = sorted({row["patient"] for row in report["per_patient"]})
        reports.append({**report, "path": path, "patients": patients})
        for key in ("data", "split", "field", "patients"):
            if reports[0][key] != reports[-1][key]:
                own, other = (_short(one, key) for one in (reports[-1], reports[0]))
                raise ValueError(
                    f"{path}: {key} is {own}, but {other} in {reports[0]['path']}; give reports on the same patients "
                    "and field"
                )
    return reports


def _short(report: Row, key: str) -> str:
    value = report[key]
    return f"{len(value)} patients ({', '.join(value[:3])} ...)" if key == "patients" else repr(value)


def collect(reports: Sequence[Row]) -> list[Measured]:
    """Each method by each segmenter, in the order of the reports; a model that the segmenter taught has a mark.

    Raises:
        ValueError: one setting stands in two reports, or a segmenter differs between them.
    """
    rows: dict[tuple[str, str], dict[str, list[Row]]] = {}
    originals: dict[str, list[Row]] = {}
    for report in reports:
        of_patient = sorted(report["per_patient"], key=lambda row: row["patient"])
        for segmenter in report["taught"]:
            first = [row for row in of_patient if row["method"] == ORIGINAL and row["hearts"][segmenter]]
            if not first:
                raise ValueError(f"{report['path']}: no patient has labels of ED and ES, so no heart is measured")
            known = originals.setdefault(segmenter, first)
            if any(a["hearts"][segmenter] != b["hearts"][segmenter] for a, b in zip(known, first, strict=True)):
                raise ValueError(
                    f"{report['path']}: the segmenter {segmenter} measures other hearts on the originals than in "
                    "another report; give reports by one segmenter of that name"
                )
            labelled = {row["patient"] for row in first}
            for row in of_patient:
                method = f"{row['method']} {MARK}" if row["method"] in report["taught"][segmenter] else row["method"]
                if row["method"] != ORIGINAL and row["patient"] in labelled:
                    rows.setdefault((segmenter, method), {}).setdefault(row["setting"], []).append(row)
    methods = []
    for (segmenter, method), settings in rows.items():
        for setting, of_setting in settings.items():
            if len(of_setting) != len(originals[segmenter]):
                raise ValueError(f"{method}, {setting}, is in two reports by {segmenter}; give each of them once")
        methods.append(_measured(segmenter, method, settings, originals[segmenter]))
    return methods


def _measured(segmenter: str, method: str, settings: dict[str, list[Row]], originals: list[Row]) -> Measured:
    def means(key: str, names: Sequence[str]) -> np.ndarray:
        return np.array([finite_mean(row[key] for row in settings[name]) for name in names])

    names = list(settings)
    names = [names[index] for index in np.argsort(means("ratio_int16", names), kind="stable")]
    of_patients = [row["hearts"][segmenter] for of_setting in settings.values() for row in of_setting]
    keys = dict.fromkeys(key for row in of_patients for key in row)  # a patient with ED alone has none of ES
    before = [row["hearts"][segmenter] for row in originals]
    known = dict.fromkeys(key for row in before for key in row)
    return Measured(
        method,
        segmenter,
        names,
        means("bytes_per_frame", names),
        means("ratio_int16", names),
        means("psnr", names),
        {key: np.array([_values(settings[name], segmenter, key) for name in names]) for key in keys},
        {key: np.array([_number(row.get(key)) for row in before]) for key in known},
        {key: np.array([_number(row["truth"].get(key)) for row in originals]) for key in VOLUMES},
        [str(row["group"] or "unknown") for row in originals],
    )


def _values(rows: Sequence[Row], segmenter: str, key: str) -> list[float]:
    return [_number(row["hearts"][segmenter].get(key)) for row in rows]


def _number(value: float | None) -> float:
    """A number of a JSON file, in which null is NaN."""
    return math.nan if value is None else float(value)
