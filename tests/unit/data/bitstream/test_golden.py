"""Files of users depend on these bytes: if a test here fails, the version of the file must change."""

from typing import Any

import numpy as np
import pytest

from data.bitstream.container import pack, read_parts, unpack
from data.bitstream.entropy import TokenTable
from data.bitstream.header import Header
from data.bitstream.payload import FIXED, REPEATS, REPEATS_TABLE, TABLE
from data.preprocess import Geometry
from utils.layout import FrameLayout, SequenceLayout, TokenLayout

SLICES, PHASES = 2, 3
RARE = TokenTable(np.array([1000, *[1] * 15]))  # id 0 is frequent
PARTS: dict[str, Any] = {  # of the header, all that is optional
    "affine": np.array([[0, -1.25, 0, 10], [1.5, 0, 0, -20], [0, 0, 8, 5], [0, 0, 0, 1]], float),
    "slope": 2.0, "intercept": -100.0, "outside": 7.5, "time_step": 42.5, "time_unit": 16, "length_unit": 3,
    "dtype": "uint64",
}  # fmt: skip


def make_header(layout: TokenLayout, **more: Any) -> Header:
    return Header(
        SLICES, PHASES, layout, geometry=Geometry("crop", (40, 36), 32, (3, -2)), window=(0.0, 300.0),
        spacing_mm=(1.5, 1.25, 8.0), affine=more.pop("affine", np.diag([1.5, 1.25, 8.0, 1.0])),
        tokens_id=0x0123456789ABCDEF, pixels_id=0xFEDCBA98, **more,
    )  # fmt: skip


def frame_tokens(latents: int, anatomy: int, coding: int) -> np.ndarray:
    """Tokens for which a coding gives the shortest file."""
    ids = np.arange(SLICES * PHASES * latents).reshape(SLICES, PHASES, latents) * 7 % 16
    if coding in (TABLE, REPEATS_TABLE):
        ids[..., : 9 * latents // 10] = 0
    if coding == TABLE:
        ids[:, 1] = 0
        ids[:, 1, ::9] = np.arange(ids[0, 1, ::9].size) % 16
        ids[:, 2, 4::9] = 1
    if coding in (REPEATS, REPEATS_TABLE):
        ids[:, 1:] = ids[:, :1]
    key = np.arange(SLICES * 2 * anatomy).reshape(SLICES, -1) % 5
    phases = np.tile([0, 2], (SLICES, 1))
    return np.concatenate([phases, ids.reshape(SLICES, -1), key], axis=1)


FILES: dict[str, tuple[TokenLayout, np.ndarray, dict[str, Any], int]] = {
    "frame, fixed width": (FrameLayout(3, 16, 2, 5), frame_tokens(3, 2, FIXED), {}, FIXED),
    "frame, all optional parts": (FrameLayout(3, 16), frame_tokens(3, 0, FIXED), PARTS, FIXED),
    "frame, repeats": (FrameLayout(40, 16), frame_tokens(40, 0, REPEATS), {}, REPEATS),
    "frame, table": (FrameLayout(60, 16), frame_tokens(60, 0, TABLE), {}, TABLE),
    "frame, repeats and table": (FrameLayout(60, 16), frame_tokens(60, 0, REPEATS_TABLE), {}, REPEATS_TABLE),
    "sequence": (SequenceLayout(5, 1000), np.array([[0, 999, 512, 1, 77]]), {}, FIXED),
}


BYTES = {
    "frame, fixed width": (
        "54544d52492d52554f035e000000002800efcdab896745230198badcfe020003000300020010000000050000000028002400"
        "20000300feff00000000000096430000c03f0000a03f0000004103707e5c3a18f6d4b290705380a09e368d61"
    ),
    "frame, all optional parts": (
        "54544d52492d52554f039c000000002b1cefcdab896745230198badcfe020003000300000010000000000000000028002400"
        "20000300feff00000000000096430000c03f0000a03f0000004109000000000000a0bf00000000000020410000c03f000000"
        "00000000000000a0c10000000000000000000000410000a040000000400000c8c20000f04000002a4210707e5c3a18f6d4b2"
        "9070a68dd45c"
    ),
    "frame, repeats": (
        "54544d52492d52554f038a000000002801efcdab896745230198badcfe020003002800000010000000000000000028002400"
        "20000300feff00000000000096430000c03f0000a03f000000410370a1c3e5075454248c4545555554545455454555555454"
        "545545455555545454554545555555545455ffff5f4dffff7ffeffffffff8791fff387c91964"
    ),
    "frame, table": (
        "54544d52492d52554f0392000000002802efcdab896745230198badcfe020003003c00000010000000000000000028002400"
        "20000300feff00000000000096430000c03f0000a03f0000004103cf44c2207035defb71db387e58c0491c417c86036e552f"
        "58c0a5273a5398d9d1160e063afd7fc95f535735d4349668936b2082f6ec05e868f41d41925575a9e49650142d10"
    ),
    "frame, repeats and table": (
        "54544d52492d52554f037e000000002803efcdab896745230198badcfe020003003c00000010000000000000000028002400"
        "20000300feff00000000000096430000c03f0000a03f0000004103cf44c2207035defb71d8387e5869840d0ad63256a86e0b"
        "03a1fffffffffffffffffffffffffffffff6f0076ddaf0ddae64"
    ),
    "sequence": (
        "54544d52492d52554f0358000000010400efcdab896745230198badcfe0200030005000000e8030000000000000028002400"
        "20000300feff00000000000096430000c03f0000a03f0000004103003e7800011340a241e770"
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_the_bytes_that_it_has_always_had(name: str) -> None:
    layout, tokens, more, coding = FILES[name]
    tokens = tokens.reshape(layout.shape(SLICES, PHASES))
    data = pack(tokens, make_header(layout, **more), RARE)
    assert read_parts(data).payload.coding == coding
    assert data.hex() == BYTES[name]
    np.testing.assert_array_equal(unpack(bytes.fromhex(BYTES[name]), RARE)[0], tokens)
