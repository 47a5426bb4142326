"""A sound record has no warnings; each rule sees its own fault and only that."""

from itertools import product
from typing import Any

import pytest

from data.cohort.rules import RULES, warnings_of

SOUND: dict[str, Any] = {
    "patient": "patient001", "shape": [256, 216, 10, 30], "spacing_mm": [1.5, 1.5, 10.0], "ed": 0, "es": 11,
    "lv_edv": 140.0, "lv_esv": 60.0, "lv_ef": 57.0, "rv_edv": 150.0, "rv_esv": 70.0, "rv_ef": 53.0,
    "myo_ed": 100.0, "myo_es": 105.0, "bsa_m2": 1.9, "height_cm": 175.0, "weight_kg": 75.0, "unlabelled_inside": 0,
    "labelled_phases": [0, 11], "never_labelled": [],
    "heart_in_crop": 1.0, "share_at_max": 1e-6, "intensity": {"max": 1000.0},
}  # fmt: skip
UNKNOWN = dict.fromkeys(
    ("ed", "es", "lv_edv", "lv_esv", "lv_ef", "rv_edv", "rv_esv", "rv_ef", "myo_ed", "myo_es", "bsa_m2", "height_cm",
     "weight_kg", "unlabelled_inside", "heart_in_crop")
)  # fmt: skip
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("structure_missing", {"rv_edv": 0.0, "rv_esv": 0.0, "rv_ef": None}, "RV at ED, RV at ES"),
    ("structure_missing", {"myo_es": 0.0}, "MYO at ES"),
    ("structure_missing", {"never_labelled": ["RV"], "rv_edv": None, "rv_esv": None, "rv_ef": None}, "RV at any phase"),
    ("labels_left_behind", {"labelled_phases": [0, 4, 11]}, "phases [4]"),
    ("key_frames_swapped", {"lv_edv": 60.0, "lv_esv": 140.0, "lv_ef": -133.0, "rv_edv": 70.0, "rv_esv": 150.0,
                            "rv_ef": -114.0}, "swapped"),
    ("no_ejection", {"lv_esv": 140.0, "lv_ef": 0.0}, "LV EDV 140 mL, ESV 140 mL"),
    ("no_ejection", {"rv_esv": 151.0, "rv_ef": -0.7}, "RV EDV 150 mL, ESV 151 mL"),
    ("ejection_fraction", {"lv_esv": 137.0, "lv_ef": 2.1}, "LV EF 2 %"),
    ("ejection_fraction", {"rv_esv": 15.0, "rv_ef": 90.0}, "RV EF 90 %"),
    ("pixel_spacing", {"spacing_mm": [1.5, 3.5, 10.0]}, "1.5 x 3.5 mm"),
    ("pixel_spacing", {"spacing_mm": [0.4, 0.4, 10.0]}, "0.4 x 0.4 mm"),
    ("slice_spacing", {"spacing_mm": [1.5, 1.5, 1.0]}, "1 mm apart"),
    ("slice_spacing", {"spacing_mm": [1.5, 1.5, 16.0]}, "16 mm apart"),
    ("few_phases", {"shape": [256, 216, 10, 7], "es": 3, "labelled_phases": [0, 3]}, "7 phases"),
    ("few_phases", {"shape": [256, 216, 10, 1], "ed": None, "es": None, "labelled_phases": []}, "1 phases"),
    ("unlabelled_inside", {"unlabelled_inside": 2}, "2 unlabelled slices"),
    ("heart_outside_crop", {"heart_in_crop": 0.95}, "95.0 %"),
    ("saturated", {"share_at_max": 0.005}, "0.5 % of the voxels"),
    ("body_size", {"bsa_m2": 0.19, "height_cm": 1.75}, "1.75 cm and 75 kg"),
]  # fmt: skip


def rules_broken(**changes: Any) -> list[str]:
    return [warning["rule"] for warning in warnings_of({**SOUND, **changes})]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**UNKNOWN, "labelled_phases": []},
        {"shape": [256, 216, 10, 8]},
        {"shape": [256, 216, 10, 2], "es": 1, "labelled_phases": [0, 1]},
        {"lv_ef": 85.0},
    ],
)
def test_a_sound_case_a_pair_of_key_frames_and_what_is_unknown_are_not_odd(changes: dict[str, Any]) -> None:
    assert rules_broken(**changes) == []


@pytest.mark.parametrize(("rule", "changes", "text"), FAULTS)
def test_a_fault_is_seen_by_its_own_rule_alone(rule: str, changes: dict[str, Any], text: str) -> None:
    (warning,) = warnings_of({**SOUND, **changes})
    assert warning["patient"] == "patient001" and warning["rule"] == rule
    assert text in warning["warning"]


def test_every_rule_has_a_fault_here_and_says_what_it_expects() -> None:
    assert {rule for rule, _, _ in FAULTS} == {rule.__name__ for rule in RULES}
    assert all(rule.__doc__ for rule in RULES)


def test_a_case_may_break_several_rules() -> None:
    assert rules_broken(share_at_max=0.1, heart_in_crop=0.5) == ["heart_outside_crop", "saturated"]


def test_no_rule_stumbles_over_what_is_not_known() -> None:
    volumes = [key for key in UNKNOWN if key.endswith(("edv", "esv"))]
    for unknown in product((False, True), repeat=len(volumes)):
        missing = {key: None for key, gone in zip(volumes, unknown, strict=True) if gone}
        missing |= {f"{key[:2]}_ef": None for key in missing}
        for values in ({}, {"lv_edv": 50.0, "lv_esv": 60.0, "lv_ef": -20.0}):
            warnings_of({**SOUND, **values, **missing})
