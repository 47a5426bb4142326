from typing import Any

import numpy as np
import pytest

from data.case import CaseRefused, CineCase


def make(**changes: Any) -> CineCase:
    values: dict[str, Any] = {
        "patient": "patient001", "cine": np.ones((6, 5, 2, 3), np.int16), "masks": {0: np.zeros((6, 5, 2), np.uint8)},
        "spacing_mm": (1.5, 1.5, 10.0), "affine": np.eye(4), "ed": 0, "es": 2, "group": None, "height_cm": None,
        "weight_kg": None, "slope": 1.0, "intercept": 0.0, "source_hash": "",
    }  # fmt: skip
    return CineCase(**{**values, **changes})


def test_a_sound_case_is_accepted():
    assert make().cine.shape == (6, 5, 2, 3)


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"patient": ""}, "bad_name", "patient name is ''"),
        ({"patient": "../patient001"}, "bad_name", "patient name"),
        ({"patient": "p" * 65}, "bad_name", "patient name"),
        ({"cine": np.ones((6, 5, 2))}, "wrong_axes", r"\(H, W, D, T\)"),
        ({"cine": np.ones((6, 5, 2, 0))}, "wrong_axes", "none of them 0"),
        ({"cine": np.full((6, 5, 2, 3), np.nan)}, "not_finite", "180 NaN"),
        ({"cine": np.ones((6, 5, 2, 3), complex)}, "wrong_type", "dtype"),
        ({"masks": {0: np.zeros((6, 4, 2), np.uint8)}}, "mask_shape", r"\(6, 4, 2\)"),
        ({"masks": {3: np.zeros((6, 5, 2), np.uint8)}}, "mask_shape", "phase 3"),
        ({"masks": {1: np.full((6, 5, 2), 7, np.uint8)}}, "mask_labels", r"labels \[7\]"),
        ({"masks": {0: np.zeros((6, 5, 2))}}, "mask_labels", "float64"),
        ({"spacing_mm": (1.5, 0.0, 10.0)}, "bad_spacing", "spacing_mm"),
        ({"affine": np.full((4, 4), np.nan)}, "bad_spacing", "affine"),
        ({"ed": 3}, "key_frame_outside", "ed is phase 3"),
        ({"ed": 2}, "same_key_frames", "both phase 2"),
        ({"slope": 0.0}, "bad_scale", "slope"),
    ],
)
def test_what_is_wrong_is_named_with_the_rule_and_the_patient(changes: dict[str, Any], rule: str, message: str):
    with pytest.raises(CaseRefused, match=message) as refusal:
        make(**changes)
    assert refusal.value.rule == rule
    assert refusal.value.patient == changes.get("patient", "patient001")


def test_a_case_whose_key_frames_are_unknown_is_sound():
    assert make(ed=None, es=None).es is None
