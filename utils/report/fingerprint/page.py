"""The fingerprint of a cohort as one self-contained HTML page.

All its content is in fingerprint.json, except the thumbnails.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from utils.report.columns import Table
from utils.report.fingerprint import figures
from utils.report.page import data_url, render
from utils.report.tables import number

Fingerprint = Mapping[str, Any]
Thumbnails = Mapping[str, Mapping[str, str]]  # patient -> ED, ES -> PNG in base64

NUMBERS = {  # key -> (name, decimals)
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
    return render("fingerprint.html.j2", page_values(fingerprint, thumbnails))


def page_values(fingerprint: Fingerprint, thumbnails: Thumbnails) -> dict[str, Any]:
    """The values of the template fingerprint.html.j2, as plain data; arguments as in `html_page`."""
    counts, groups = fingerprint["counts"], list(fingerprint["groups"])
    lead = (
        f"patients {counts['patients']}, slices {counts['slices']}, frames {counts['frames']}; "
        f"{counts['labelled_patients']} patients with labels"
    )
    warnings = [[w["patient"], w["rule"], w["warning"]] for w in fingerprint["warnings"]]
    return {
        "title": f"Fingerprint of {fingerprint['name']}",
        "lead": lead,
        "warning": fingerprint["notice"],
        "tiles": _tiles(fingerprint),
        "warnings": Table(["patient", "rule", "warning"], warnings),
        "rules": list(fingerprint["rules"].items()),
        "images": {
            "heading": "Distributions",
            "caption": "Patients by spacing, size and intensity",
            "source": data_url(figures.draw_images(fingerprint["patients"])),
        },
        "hearts": _hearts(fingerprint, groups),
        "montage": [_montage_group(fingerprint, group, thumbnails) for group in groups],
        "numbers": _numbers(fingerprint),
        "patients": _patients(fingerprint),
    }


def _tiles(fingerprint: Fingerprint) -> list[dict[str, str]]:
    median = {key: distribution["median"] for key, distribution in fingerprint["distributions"].items()}
    size = " × ".join(number(median[key], 0) for key in ("height", "width"))
    pixel = " × ".join(number(median[f"spacing_{axis}_mm"], 2) for axis in "hw")
    tiles = [
        (str(fingerprint["counts"]["patients"]), "patients"),
        (size, "pixels, median"),
        (pixel, "mm a pixel, median"),
        (number(median["slices"], 0), f"slices, {number(median['spacing_d_mm'], 1)} mm apart, medians"),
        (number(median["phases"], 0), "phases, median"),
        (str(len(fingerprint["warnings"])), "warnings"),
    ]
    return [{"value": value, "name": name} for value, name in tiles]


def _hearts(fingerprint: Fingerprint, groups: Sequence[str]) -> dict[str, Any] | None:
    """Volumes and EF by group; None where no patient is labelled."""
    pictures = figures.draw_hearts(fingerprint["patients"], groups)
    if pictures is None:
        return None
    ejection, points = pictures
    rows = [
        [group, str(distributions["n"]), *(_range(distributions[key]) for key in HEART)]
        for group, distributions in fingerprint["by_group"].items()
    ]
    return {
        "table": Table(["group", "patients", *(NUMBERS[key][0] for key in HEART)], rows),
        "figures": [
            {
                "heading": "Ejection fraction",
                "caption": "LV EF over patients, groups stacked",
                "source": data_url(ejection),
            },
            {
                "heading": "By group",
                "caption": "One point a patient; the bar is the median",
                "source": data_url(points),
            },
        ],
    }


def _range(distribution: Mapping[str, Any]) -> str:
    """Median (smallest to largest); a dash where no value is known."""
    median, low, high = (number(distribution[key], 0) for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})" if distribution["n"] else median


def _montage_group(fingerprint: Fingerprint, group: str, thumbnails: Thumbnails) -> dict[str, Any]:
    """The thumbnails of all patients of one group."""
    rows = figures.of_group(fingerprint["patients"], group)
    return {"name": group, "patients": [_montage_patient(row, thumbnails[row["patient"]]) for row in rows]}


def _montage_patient(row: Mapping[str, Any], thumbnails: Mapping[str, str]) -> dict[str, Any]:
    pictures = {phase: base64.b64decode(data, validate=True) for phase, data in thumbnails.items()}
    return {
        "name": row["patient"],
        "ejection": None if row["lv_ef"] is None else number(row["lv_ef"], 0),
        "images": [{"phase": phase, "source": data_url(png)} for phase, png in pictures.items()],
    }


def _numbers(fingerprint: Fingerprint) -> Table:
    """One row a number: how many patients have it, and its distribution over them."""
    rows = []
    for key, (name, decimals) in NUMBERS.items():
        distribution = fingerprint["distributions"][key]
        if distribution["n"]:
            cells = (number(distribution[statistic], decimals) for statistic in SPREAD[1:])
            rows.append([name, str(distribution["n"]), *cells])
    return Table(["", *SPREAD], rows)


def _patients(fingerprint: Fingerprint) -> Table:
    rows = []
    for row in fingerprint["patients"]:
        key_frames = (number(row[phase], 0) for phase in ("ed", "es"))
        cells = (number(row[key], NUMBERS[key][1]) for key in IN_TABLE)
        rows.append([row["patient"], row["group"], *key_frames, *cells])
    return Table(["patient", "group", "ED", "ES", *(NUMBERS[key][0] for key in IN_TABLE)], rows)
