"""The fingerprint of a cohort: properties of each case, distributions over the cohort, and warnings.

    CineCase ─ case_record ─► plain record a patient ─ write_fingerprint ─► fingerprint.json, fingerprint.html

Axes: H height, W width, D slices (in stored order), T phases of the cardiac cycle.
"""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.case import CineCase
from data.cohort.rules import RULES, warnings_of
from data.preprocess import Geometry, Placement, native_field, place, plan, to_grid
from data.window import percentiles, real_values
from utils.clinical import FUNCTION, KEY_FRAMES, body_surface_m2, function, volume_ml
from utils.files import jsonable, write_json, write_text
from utils.labels import STRUCTURES
from utils.metrics import true_depth_bits

Record = dict[str, Any]

CROP = 128  # pixels a side of the crop that should contain the heart
THUMBNAIL = 64  # pixels a side; divides CROP
PERCENTILES = {"p0.5": 0.5, "p50": 50.0, "p95": 95.0, "p99.5": 99.5, "max": 100.0}
WALL = ("myo_ed", "myo_es")
MEASURES = {  # measures of each structure
    "RV": ("rv_edv", "rv_esv", "rv_ef"),
    "MYO": ("lv_mass", *WALL),
    "LV": ("lv_edv", "lv_esv", "lv_ef"),
}
HEART = (*FUNCTION, *WALL)  # measures from the masks
UNKNOWN = "unknown"  # group of patients without a known group
NOTICE = "Research use only, not a medical device."


def case_record(case: CineCase, placement: Placement | None = None) -> Record:
    """Properties of one case, as plain values for strict JSON; null for unknown values.

    Args:
        case: the patient.
        placement: of the case, if already known.
    Returns:
        patient; shape [H, W, D, T]; spacing_mm; dtype and bits (true depth) of the stored values; intensity
        {p0.5, p50, p95, p99.5, max} of the real values (slope and intercept applied); share_at_max, of the voxels;
        window [low, high] in real values; ed, es, group, height_cm, weight_kg, bsa_m2; labelled_phases;
        never_labelled, structures without any label, whose volumes are therefore null;
        unlabelled_slices (no label at any labelled phase) and unlabelled_inside (between labelled ones); volumes in mL,
        EF in % and LV mass in g as `utils.clinical.function` names them, and the wall's volumes myo_ed and myo_es;
        heart_in_crop, the fraction of all labels inside a crop of 128 pixels; thumbnails {ED, ES}, the middle slice
        inside that crop as PNG of 64 x 64 in base64.
    Raises:
        CaseRefused: for an empty window.
    """
    window, center = placement or place(case)
    crop = plan(case.cine.shape[:2], CROP, "crop", center)
    intensity = percentiles(case.cine, list(PERCENTILES.values()), case.slope, case.intercept)
    record = {
        "patient": case.patient,
        "shape": case.cine.shape,
        "spacing_mm": case.spacing_mm,
        "dtype": case.cine.dtype.name,
        "bits": true_depth_bits(case.cine),
        "intensity": dict(zip(PERCENTILES, intensity, strict=True)),
        "share_at_max": np.mean(case.cine == case.cine.max()),
        "window": window,
        "ed": case.ed,
        "es": case.es,
        "group": case.group,
        "height_cm": case.height_cm,
        "weight_kg": case.weight_kg,
        "bsa_m2": body_surface_m2(case.height_cm, case.weight_kg),
        **_labels(case),
        "heart_in_crop": _heart_inside(case, native_field(crop)),
        "thumbnails": _thumbnails(case, window, crop),
    }
    return jsonable(record)


def write_fingerprint(records: Sequence[Record], folder: Path, name: str) -> dict[str, Any]:
    """Write fingerprint.json and fingerprint.html of a cohort.

    Args:
        records: of `case_record`, one a patient, in any order.
        folder: where the two files go.
        name: name of the cohort, the title of the page; not a path.
    Returns:
        Content of fingerprint.json: name, notice, counts, dtypes, groups, distributions, by_group, warnings
        [{patient, rule, warning}], rules (with descriptions) and patients, one flat row each, without thumbnails.
    Raises:
        ValueError: for no records, or two records of one patient.
    """
    from utils.report.fingerprint.page import (
        html_page,  # imports matplotlib, which the workers that make records do not need
    )

    twice = [patient for patient, count in Counter(record["patient"] for record in records).items() if count > 1]
    if not records or twice:
        problem = f"two records of {twice[0]}" if twice else "no records"
        raise ValueError(f"the fingerprint of {name} has {problem}, expected one record a patient")
    records = sorted(records, key=lambda record: record["patient"])
    fingerprint = jsonable(summarize(records, name))
    write_json(folder / "fingerprint.json", fingerprint)
    write_text(folder / "fingerprint.html", html_page(fingerprint, {r["patient"]: r["thumbnails"] for r in records}))
    return fingerprint


def summarize(records: Sequence[Record], name: str) -> dict[str, Any]:
    """Content of fingerprint.json, see `write_fingerprint`."""
    rows = [flat(record) for record in records]
    groups = Counter(row["group"] for row in rows)
    of_group = {group: [row for row in rows if row["group"] == group] for group in sorted(groups)}
    return {
        "name": name,
        "notice": NOTICE,
        "counts": {
            "patients": len(rows),
            "slices": sum(row["slices"] for row in rows),
            "frames": sum(row["slices"] * row["phases"] for row in rows),
            "labelled_patients": sum(row["labelled_phases"] > 0 for row in rows),
        },
        "dtypes": dict(sorted(Counter(row["dtype"] for row in rows).items())),
        "groups": dict(sorted(groups.items())),
        "distributions": {key: distribution(row[key] for row in rows) for key in NUMBERS},
        "by_group": {
            group: {"n": len(members), **{key: distribution(row[key] for row in members) for key in HEART}}
            for group, members in of_group.items()
        },
        "warnings": [warning for record in records for warning in warnings_of(record)],
        "rules": {rule.__name__: rule.__doc__ for rule in RULES},
        "patients": rows,
    }


def flat(record: Record) -> Record:
    """A record as one row of a table: patient, then the numbers (see NUMBERS), without lists or pictures."""
    height, width, slices, phases = record["shape"]
    row_mm, col_mm, gap_mm = record["spacing_mm"]
    return {
        "patient": record["patient"],
        "group": record["group"] or UNKNOWN,
        "dtype": record["dtype"],
        "ed": record["ed"],
        "es": record["es"],
        **{"height": height, "width": width, "slices": slices, "phases": phases},
        **{"spacing_h_mm": row_mm, "spacing_w_mm": col_mm, "spacing_d_mm": gap_mm},
        **{"field_h_mm": height * row_mm, "field_w_mm": width * col_mm},
        "bits": record["bits"],
        **{f"intensity_{key}": record["intensity"][key] for key in PERCENTILES},
        **dict(zip(("window_low", "window_high"), record["window"], strict=True)),
        "labelled_phases": len(record["labelled_phases"]),
        **{key: record[key] for key in SAME},
    }


SAME = (  # numbers that a row copies from the record
    *("share_at_max", "height_cm", "weight_kg", "bsa_m2", "unlabelled_slices", "unlabelled_inside"),
    *(*HEART, "heart_in_crop"),
)
NUMBERS = (
    *("height", "width", "slices", "phases", "spacing_h_mm", "spacing_w_mm", "spacing_d_mm", "field_h_mm"),
    *("field_w_mm", "bits", *(f"intensity_{key}" for key in PERCENTILES), "window_low", "window_high"),
    *("labelled_phases", *SAME),
)


def distribution(values: Iterable[float | None]) -> dict[str, float]:
    """n, min, p5, median, p95, max, mean and std (sample) of the known values; NaN if none is known."""
    known = np.array([value for value in values if value is not None], float)
    if not known.size:
        return {"n": 0, **dict.fromkeys(("min", "p5", "median", "p95", "max", "mean", "std"), math.nan)}
    places = dict(zip(("min", "p5", "median", "p95", "max"), np.percentile(known, [0, 5, 50, 95, 100]), strict=True))
    return {"n": known.size, **places, "mean": known.mean(), "std": known.std(ddof=1) if known.size > 1 else math.nan}


def _labels(case: CineCase) -> Record:
    """Labelled phases and slices, and the volumes at ED and ES."""
    known = zip(KEY_FRAMES, (case.ed, case.es), strict=True)
    masks = {name: case.masks[phase] for name, phase in known if phase is not None and phase in case.masks}
    labelled = [mask.any(axis=(0, 1)) for mask in case.masks.values()]  # (D,) each
    spans = [np.flatnonzero(slices) for slices in labelled if slices.any()]
    wall = (
        volume_ml(masks[name], STRUCTURES["MYO"], case.spacing_mm) if name in masks else math.nan for name in KEY_FRAMES
    )
    never = [
        name
        for name, label in STRUCTURES.items()
        if masks and not any((mask == label).any() for mask in masks.values())
    ]
    measured = {**function(masks, case.spacing_mm), **dict(zip(WALL, wall, strict=True))}
    unknown = [key for name in never for key in MEASURES[name]]
    return {
        "labelled_phases": sorted(case.masks),
        "never_labelled": never,
        "unlabelled_slices": int((~np.logical_or.reduce(labelled)).sum()) if labelled else None,
        "unlabelled_inside": sum(int(z[-1] - z[0]) + 1 - len(z) for z in spans) if labelled else None,
        **measured,
        **dict.fromkeys(unknown, math.nan),
    }


def _heart_inside(case: CineCase, inside: np.ndarray) -> float:
    """Fraction of all labels where `inside` (H, W) is True; NaN without labels."""
    heart = np.logical_or.reduce([np.zeros(case.cine.shape[:3], bool), *(mask > 0 for mask in case.masks.values())])
    return float(heart[inside].sum() / heart.sum()) if heart.any() else math.nan


def _thumbnails(case: CineCase, window: tuple[float, float], crop: Geometry) -> dict[str, str]:
    """The middle slice at ED and ES; if unknown, at phase 0 and the phase with the largest difference from it."""
    middle = real_values(case.cine[:, :, case.cine.shape[2] // 2], case.slope, case.intercept)
    frames = to_grid(middle.transpose(2, 0, 1), window, crop)  # (T, CROP, CROP)
    ed = 0 if case.ed is None else case.ed
    es = int(np.abs(frames - frames[ed]).mean(axis=(1, 2)).argmax()) if case.es is None else case.es
    return dict(zip(KEY_FRAMES, (_png(frames[phase]) for phase in (ed, es)), strict=True))


def _png(frame: np.ndarray) -> str:
    """A frame (CROP, CROP) in [0, 1] as a small PNG in base64."""
    step = CROP // THUMBNAIL
    small = frame.reshape(THUMBNAIL, step, THUMBNAIL, step).mean(axis=(1, 3))
    stream = io.BytesIO()
    Image.fromarray(np.round(small * 255).astype(np.uint8)).save(stream, "png", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
