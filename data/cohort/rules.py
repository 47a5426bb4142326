"""Rules for unusual but readable cases: each returns a warning or None.

The argument of a rule is a record of `fingerprint.case_record`. Its docstring, which is shown in the report, states the
expectation. Unknown values (null) give no warning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Record = dict[str, Any]

EF_PERCENT = (5.0, 85.0)
PIXEL_MM = (0.5, 3.0)
GAP_MM = (4.0, 15.0)
BODY_SURFACE_M2 = (1.0, 3.0)
FEWEST_PHASES = 8
SHARE_IN_CROP = 0.99
SHARE_AT_MAX = 0.001
VENTRICLES = ("lv", "rv")
VOLUMES = {
    **{"lv_edv": "LV at ED", "lv_esv": "LV at ES", "rv_edv": "RV at ED", "rv_esv": "RV at ES"},
    **{"myo_ed": "MYO at ED", "myo_es": "MYO at ES"},
}


def warnings_of(record: Record) -> list[dict[str, str]]:
    """All warnings about one case, as {patient, rule, warning}."""
    results = ((rule.__name__, rule(record)) for rule in RULES)
    return [{"patient": record["patient"], "rule": name, "warning": text} for name, text in results if text is not None]


def structure_missing(record: Record) -> str | None:
    """Every labelled key frame shows LV, RV and MYO."""
    odd = [name for key, name in VOLUMES.items() if record[key] == 0]
    odd += [f"{name} at any phase" for name in record["never_labelled"]]
    return f"no voxel is labelled {', '.join(odd)}" if odd else None


def labels_left_behind(record: Record) -> str | None:
    """Labels are at ED and ES only: shards hold the labels of these two phases and no others."""
    left = sorted(set(record["labelled_phases"]) - {record["ed"], record["es"]})
    return f"labels at phases {left} (from 0) are not in the shards: declare them as ED and ES" if left else None


def key_frames_swapped(record: Record) -> str | None:
    """LV and RV are not both larger at ES than at ED."""
    pairs = [(side, *_volumes(record, side)) for side in VENTRICLES]
    if not all(edv is not None and esv is not None and esv > edv for _, edv, esv in pairs):
        return None
    volumes = ", ".join(f"{side.upper()} {edv:.0f} mL at ED and {esv:.0f} mL at ES" for side, edv, esv in pairs)
    return f"{volumes}: are ED and ES swapped?"


def no_ejection(record: Record) -> str | None:
    """Each ventricle is larger at ED than at ES."""
    pairs = [(side, *_volumes(record, side)) for side in VENTRICLES]
    known = [(side, edv, esv) for side, edv, esv in pairs if None not in (edv, esv)]
    odd = [f"{side.upper()} EDV {edv:.0f} mL, ESV {esv:.0f} mL" for side, edv, esv in known if esv and edv <= esv]
    return f"{', '.join(odd)}: expected more at ED" if odd and key_frames_swapped(record) is None else None


def ejection_fraction(record: Record) -> str | None:
    """EF of LV and RV lies within 5 to 85 %."""
    odd = []
    for side in VENTRICLES:
        ef, (edv, esv) = record[f"{side}_ef"], _volumes(record, side)
        if ef is not None and edv > esv and not _within(ef, EF_PERCENT):  # EDV <= ESV has its own rule
            odd.append(f"{side.upper()} EF {ef:.0f} %")
    return f"{', '.join(odd)}: expected {_span(EF_PERCENT)} %" if odd else None


def pixel_spacing(record: Record) -> str | None:
    """Pixel spacing is 0.5 to 3 mm in both directions."""
    row, col, _ = record["spacing_mm"]
    if _within(row, PIXEL_MM) and _within(col, PIXEL_MM):
        return None
    return f"pixels of {row:.3g} x {col:.3g} mm, expected {_span(PIXEL_MM)} mm"


def slice_spacing(record: Record) -> str | None:
    """Slice spacing is 4 to 15 mm."""
    gap = record["spacing_mm"][2]
    return None if _within(gap, GAP_MM) else f"slices {gap:.3g} mm apart, expected {_span(GAP_MM)} mm"


def few_phases(record: Record) -> str | None:
    """A cine has 8 phases or more; pairs of ED and ES are exempt."""
    phases, pair = record["shape"][3], {record["ed"], record["es"]} == {0, 1}
    if phases >= FEWEST_PHASES or (phases == 2 and pair):
        return None
    return f"{phases} phases, expected {FEWEST_PHASES} or more"


def unlabelled_inside(record: Record) -> str | None:
    """No unlabelled slice lies between labelled ones of the same phase."""
    count = record["unlabelled_inside"]
    return f"{count} unlabelled slices between labelled ones" if count else None


def heart_outside_crop(record: Record) -> str | None:
    """At least 99 % of the labels lie inside a crop of 128 pixels around the detected heart."""
    share = record["heart_in_crop"]
    if share is None or share >= SHARE_IN_CROP:
        return None
    return f"{100 * share:.1f} % of the labels lie in the 128 px crop; the crop cuts the heart"


def saturated(record: Record) -> str | None:
    """At most 0.1 % of the voxels have the largest value."""
    share = record["share_at_max"]
    if share <= SHARE_AT_MAX:
        return None
    return f"{100 * share:.2g} % of the voxels have the largest value, {record['intensity']['max']:g}: clipped values?"


def body_size(record: Record) -> str | None:
    """Height and weight give a body surface of 1 to 3 m2."""
    surface = record["bsa_m2"]
    if surface is None or _within(surface, BODY_SURFACE_M2):
        return None
    size = f"{record['height_cm']:g} cm and {record['weight_kg']:g} kg"
    return f"{size} give a body surface of {surface:.2f} m2, expected {_span(BODY_SURFACE_M2)} m2; check the units"


RULES: tuple[Callable[[Record], str | None], ...] = (
    structure_missing, labels_left_behind, key_frames_swapped, no_ejection, ejection_fraction, pixel_spacing,
    slice_spacing, few_phases, unlabelled_inside, heart_outside_crop, saturated, body_size,
)  # fmt: skip


def _volumes(record: Record, side: str) -> tuple[Any, Any]:
    """EDV and ESV of a ventricle in mL, None where unknown."""
    return record[f"{side}_edv"], record[f"{side}_esv"]


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"
