"""The header of a compressed file: its values come back, and a wrong one is named."""

from typing import Any

import numpy as np
import pytest

from data.bitstream.container import pack, unpack
from data.bitstream.header import header_for
from data.case import CineCase
from data.preprocess import plan, prepare
from tests.unit.data.bitstream.test_container import as_written, make_header, make_tokens
from utils.layout import FrameLayout


def test_an_oblique_affine_and_a_scaling_come_back() -> None:
    affine = np.vstack([np.random.default_rng(0).normal(size=(3, 4)), [0, 0, 0, 1]])
    header = make_header(
        affine=affine, slope=0.5, intercept=-3.0, dtype="uint16", geometry=plan((150, 512), 192, "fit")
    )
    _, found = unpack(pack(make_tokens(header), header))
    assert as_written(found) == as_written(header)


def test_the_affine_costs_bits_only_where_the_spacing_does_not_say_it() -> None:
    plain, moved = make_header(), make_header(affine=np.diag([-1.5, 1.25, 8.0, 1.0]))
    assert len(pack(make_tokens(moved), moved)) - len(pack(make_tokens(plain), plain)) == 48


def test_a_header_says_which_of_its_values_is_wrong() -> None:
    with pytest.raises(ValueError, match="phases is 0"):
        make_header(phases=0)
    with pytest.raises(ValueError, match="window"):
        make_header(window=(1.0, 1.0))
    with pytest.raises(ValueError, match="dtype is 'complex64'"):
        make_header(dtype="complex64")
    with pytest.raises(ValueError, match="number of tokens"):
        make_header(slices=60000, phases=60000)


def test_the_header_of_a_case_holds_what_leads_back_to_its_nifti() -> None:
    cine = np.random.default_rng(0).integers(0, 200, (20, 24, 2, 3)).astype(">i2")  # whatever the byte order
    case = CineCase(
        patient="patient001",
        cine=cine,
        masks={},
        spacing_mm=(1.5, 1.25, 8.0),
        affine=np.eye(4),
        ed=None,
        es=None,
        group=None,
        height_cm=None,
        weight_kg=None,
        slope=2.0,
        intercept=0.0,
        source_hash="",
    )
    prepared = prepare(case, 16, "fit")
    header = header_for(case, prepared, FrameLayout(4, 16))
    _, found = unpack(pack(make_tokens(header), header))
    assert (found.slices, found.phases, found.dtype, found.slope) == (2, 3, "int16", 2.0)
    assert found.geometry == prepared.geometry
    np.testing.assert_array_equal(found.affine, np.eye(4))
    np.testing.assert_allclose(found.window, prepared.window)


@pytest.mark.parametrize(
    "more",
    [
        {"affine": np.diag([1.5 + 3e-16, 1.25, 8.0, 1.0])},
        {"affine": np.diag([1.5 + 1e-9, 1.25, 8.0, 1.0])},
        {"slope": 1 + 1e-9},
        {"intercept": 1e-60},
        {"time_step": 1e-60},
    ],
)
def test_what_differs_by_less_than_float32_is_written_and_read(more: dict[str, Any]) -> None:
    header = make_header(**{"affine": np.diag([1.5, 1.25, 8.0, 1.0]), **more})
    tokens, found = unpack(pack(make_tokens(header), header))
    np.testing.assert_array_equal(tokens, make_tokens(header))
    assert all(np.array_equal(getattr(found, name), getattr(header, name)) for name in more)
