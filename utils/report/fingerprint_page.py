"""The fingerprint of a cohort as one self-contained HTML page.

Everything it shows is in fingerprint.json, but for the thumbnails.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from utils.report import fingerprint_figures, page
from utils.report.evaluation import number

Fingerprint = Mapping[str, Any]
Thumbnails = Mapping[str, Mapping[str, str]]  # patient -> ED, ES -> PNG in base64

NUMBERS = {  # number -> (what it is, decimals)
    "height": ("H (pixels)", 0),
    "width": ("W (pixels)", 0),
    "slices": ("slices", 0),
    "phases": ("phases", 0),
    "spacing_h_mm": ("spacing H (mm)", 2),
    "spacing_w_mm": ("spacing W (mm)", 2),
    "spacing_d_mm": ("spacing between slices (mm)", 2),
    "field_h_mm": ("field H (mm)", 0),
    "field_w_mm": ("field W (mm)", 0),
    "bits": ("bits a voxel", 0),
    "intensity_p0.5": ("intensity, 0.5th percentile", 0),
    "intensity_p50": ("intensity, median", 0),
    "intensity_p95": ("intensity, 95th percentile", 0),
    "intensity_p99.5": ("intensity, 99.5th percentile", 0),
    "intensity_max": ("intensity, maximum", 0),
    "unlabelled_slices": ("slices without any label", 0),
    "heart_in_crop": ("share of labels in the 128 px crop", 3),
    "height_cm": ("height (cm)", 0),
    "weight_kg": ("weight (kg)", 0),
    "bsa_m2": ("body surface (m²)", 2),
    "lv_edv": ("LV EDV (mL)", 0),
    "lv_esv": ("LV ESV (mL)", 0),
    "lv_ef": ("LV EF (%)", 0),
    "rv_edv": ("RV EDV (mL)", 0),
    "rv_esv": ("RV ESV (mL)", 0),
    "rv_ef": ("RV EF (%)", 0),
    "myo_ed": ("MYO at ED (mL)", 0),
    "myo_es": ("MYO at ES (mL)", 0),
    "lv_mass": ("LV mass (g)", 0),
}
SPREAD = ("n", "min", "p5", "median", "p95", "max")
HEART = ("lv_edv", "lv_esv", "lv_ef", "rv_edv", "rv_esv", "rv_ef", "lv_mass")
IN_TABLE = (
    *("height", "width", "slices", "phases", "spacing_h_mm", "spacing_w_mm", "spacing_d_mm", "bits", "bsa_m2"),
    *(*HEART, "unlabelled_slices", "heart_in_crop"),
)


def html_page(fingerprint: Fingerprint, thumbnails: Thumbnails) -> str:
    """The whole page.

    Args:
        fingerprint: as in fingerprint.json.
        thumbnails: of every patient.

    Returns:
        HTML text.
    """
    counts, groups = fingerprint["counts"], list(fingerprint["groups"])
    lead = (
        f"patients {counts['patients']}, slices {counts['slices']}, frames {counts['frames']}; "
        f"{counts['labelled_patients']} patients with labels"
    )
    body = [
        _tiles(fingerprint),
        _warnings(fingerprint),
        "<section><h2>Images</h2>",
        page.picture("Distributions", "Patients by spacing, size and intensity", _images(fingerprint)),
        "</section>",
        *_hearts(fingerprint, groups),
        *_montage(fingerprint, groups, thumbnails),
        "<section><h2>Numbers</h2>" + page.table(["", *SPREAD], _spreads(fingerprint)) + "</section>",
        "<section><h2>Patients</h2><p>ED and ES are phases counted from 0.</p>" + _patients(fingerprint) + "</section>",
    ]
    return page.page(f"Fingerprint of {fingerprint['name']}", lead, fingerprint["notice"], body)


def _images(fingerprint: Fingerprint) -> bytes:
    return fingerprint_figures.draw_images(fingerprint["patients"])


def _tiles(fingerprint: Fingerprint) -> str:
    median = {key: found["median"] for key, found in fingerprint["distributions"].items()}
    size = " × ".join(number(median[key], 0) for key in ("height", "width"))
    pixel = " × ".join(number(median[f"spacing_{axis}_mm"], 2) for axis in "hw")
    shown = [
        (str(fingerprint["counts"]["patients"]), "patients"),
        (size, "pixels, median"),
        (pixel, "mm a pixel, median"),
        (number(median["slices"], 0), f"slices, {number(median['spacing_d_mm'], 1)} mm apart, medians"),
        (number(median["phases"], 0), "phases, median"),
        (str(len(fingerprint["warnings"])), "warnings"),
    ]
    return page.tiles(shown)


def _warnings(fingerprint: Fingerprint) -> str:
    found = [[w["patient"], w["rule"], w["warning"]] for w in fingerprint["warnings"]]
    table = page.table(["patient", "rule", "warning"], found) if found else "<p>None.</p>"
    rules = "".join(
        f"<dt>{page.text(name)}</dt><dd>{page.text(meaning)}</dd>" for name, meaning in fingerprint["rules"].items()
    )
    checked = f"<details><summary>What is checked</summary><dl>{rules}</dl></details>"
    return f"<section class=prose><h2>Warnings</h2>{table}{checked}</section>"


def _hearts(fingerprint: Fingerprint, groups: Sequence[str]) -> list[str]:
    """Volumes and EF by group; nothing where nothing is labelled."""
    drawn = fingerprint_figures.draw_hearts(fingerprint["patients"], groups)
    if drawn is None:
        return []
    ejection, points = drawn
    rows = [
        [group, str(found["n"]), *(_range(found[key]) for key in HEART)]
        for group, found in fingerprint["by_group"].items()
    ]
    return [
        "<section><h2>Hearts</h2><p>Measured in the ground truth; median (smallest to largest) by group.</p>",
        page.table(["group", "patients", *(NUMBERS[key][0] for key in HEART)], rows),
        page.picture("Ejection fraction", "LV EF over patients, groups stacked", ejection),
        page.picture("By group", "A point a patient; the bar is the median", points),
        "</section>",
    ]


def _range(found: Mapping[str, Any]) -> str:
    """Median (smallest to largest); a dash where nothing is known."""
    median, low, high = (number(found[place], 0) for place in ("median", "min", "max"))
    return f"{median} ({low} to {high})" if found["n"] else median


def _montage(fingerprint: Fingerprint, groups: Sequence[str], thumbnails: Thumbnails) -> list[str]:
    text = "The middle slice at ED (left) and ES (right) in a crop of 128 pixels around the detected heart."
    pieces = [f"<section><h2>Montage</h2><p>{text}</p>"]
    for group in groups:
        rows = fingerprint_figures.of_group(fingerprint["patients"], group)
        cards = "".join(_card(row, thumbnails[row["patient"]]) for row in rows)
        pieces.append(f"<h3>{page.text(group)} ({len(rows)})</h3><div class=montage>{cards}</div>")
    return [*pieces, "</section>"]


def _card(row: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    images = "".join(
        f'<img src="data:image/png;base64,{_checked(data)}" alt="{page.text(row["patient"])} at {page.text(phase)}">'
        for phase, data in pictures.items()
    )
    ejection = "" if row["lv_ef"] is None else f" · EF {number(row['lv_ef'], 0)} %"
    return f"<div>{images}<span>{page.text(row['patient'])}{ejection}</span></div>"


def _checked(data: str) -> str:
    """A thumbnail, sure to be base64 and nothing that could end the attribute it stands in."""
    return base64.b64encode(base64.b64decode(data, validate=True)).decode()


def _spreads(fingerprint: Fingerprint) -> list[list[str]]:
    """One line a number: how many patients have it, and how it is spread over them."""
    rows = []
    for key, (name, decimals) in NUMBERS.items():
        found = fingerprint["distributions"][key]
        if found["n"]:
            rows.append([name, str(found["n"]), *(number(found[place], decimals) for place in SPREAD[1:])])
    return rows


def _patients(fingerprint: Fingerprint) -> str:
    headings = ["patient", "group", "ED", "ES", *(NUMBERS[key][0] for key in IN_TABLE)]
    rows = []
    for row in fingerprint["patients"]:
        key_frames = (number(row[phase], 0) for phase in ("ed", "es"))
        cells = (number(row[key], NUMBERS[key][1]) for key in IN_TABLE)
        rows.append([row["patient"], row["group"], *key_frames, *cells])
    return page.table(headings, rows)
