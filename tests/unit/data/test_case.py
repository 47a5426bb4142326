from typing import Any

import numpy as np
import pytest

from data.case import CineCase


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
    ("changes", "message"),
    [
        ({"cine": np.ones((6, 5, 2))}, r"\(H, W, D, T\)"),
        ({"cine": np.full((6, 5, 2, 3), np.nan)}, "NaN"),
        ({"cine": np.ones((6, 5, 2, 3), complex)}, "dtype"),
        ({"masks": {0: np.zeros((6, 4, 2), np.uint8)}}, r"\(6, 4, 2\)"),
        ({"masks": {1: np.full((6, 5, 2), 7, np.uint8)}}, r"labels \[7\]"),
        ({"masks": {3: np.zeros((6, 5, 2), np.uint8)}}, "phase 3"),
        ({"masks": {0: np.zeros((6, 5, 2))}}, "float64"),
        ({"spacing_mm": (1.5, 0.0, 10.0)}, "spacing_mm"),
        ({"affine": np.full((4, 4), np.nan)}, "affine"),
        ({"ed": 3}, "ed is phase 3"),
        ({"slope": 0.0}, "slope"),
    ],
)
def test_what_is_wrong_is_named_with_the_patient(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=f"patient001.*{message}"):
        make(**changes)


def test_a_case_needs_a_name():
    with pytest.raises(ValueError, match="patient name"):
        make(patient="")
