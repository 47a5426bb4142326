"""Tokens that no encoder of a ladder writes are not packed."""

import dataclasses
import struct
from collections.abc import Callable

import numpy as np
import pytest

from data.bitstream import ladder_volume
from data.bitstream.container import pack, unpack
from tests.ladders import random_tokens
from tests.unit.data.bitstream.test_ladder import SIZE, coder, make_file, make_header, put_together, taken_apart


def at(place: int, value: int, row: slice | int = slice(None)) -> Callable[[np.ndarray], None]:
    """A change of one number of some rows."""

    def change(tokens: np.ndarray) -> None:
        tokens[row, place] = value

    return change


def turned(tokens: np.ndarray) -> None:
    tokens[:, :2] = tokens[:, 1::-1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at(4, -1), "step"),
        (at(4, 448), "step index 448 is out of range"),
        (at(4, 100, 1), "different volumes"),
        (at(6, 5), "region"),
        (at(9, 3, 1), "different volumes"),
        (at(9, -1), "basis"),
        (at(9, 127), "basis id 127 is out of range"),
        (at(-1, 1 << 26, 0), "residual id 67108864 is out of range"),
        (at(-1, (1 << 26) - 1, 0), "more than 24 bits"),
        (at(-1, -1, 0), "-1 elsewhere than in bands of zeros"),
        (at(0, 9), "expected"),
        (at(2, 5), "expected"),
        (turned, "14 x 11 pixels"),
    ],
)
def test_tokens_that_no_encoder_writes_are_not_packed(change: Callable[[np.ndarray], None], words: str) -> None:
    tokens = random_tokens(SIZE, spread=3.0)
    header = make_header(tokens)
    pack(tokens, header, coder())
    change(tokens)
    with pytest.raises(ValueError, match=words):
        pack(tokens, header, coder())


def test_a_basis_of_components_without_symbols_is_not_packed() -> None:
    tokens = random_tokens(SIZE, rank=3, spread=0.0)
    tokens[:, 9 + 12 :] = -1
    tokens[:, 9:21] = 60
    with pytest.raises(ValueError, match="basis"):
        pack(tokens, make_header(tokens), coder())


def test_tokens_of_other_slices_phases_or_type_than_the_header_are_not_packed() -> None:
    tokens = random_tokens(SIZE)
    header = make_header(tokens)
    for wrong in (tokens[:1], np.concatenate([tokens, tokens]), tokens[None], tokens[0], tokens.astype(float)):
        with pytest.raises(ValueError, match="expected"):
            pack(wrong, header, coder())
    with pytest.raises(ValueError, match="expected"):
        pack(tokens, dataclasses.replace(header, phases=3), coder())


def test_more_than_a_byte_of_components_and_too_many_symbols_are_refused_by_writer_and_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = random_tokens((1, 2), phases=300, rank=300, spread=0.0)
    with pytest.raises(ValueError, match="300 components"):
        pack(tokens, make_header(tokens), coder())
    tokens, data = make_file()
    monkeypatch.setattr(ladder_volume, "MOST_SYMBOLS", 3 * SIZE[0] * SIZE[1] - 1)
    with pytest.raises(ValueError, match="expected at most"):
        pack(tokens, make_header(tokens), coder())
    with pytest.raises(ValueError, match="expected at most"):
        unpack(data, coder())


def test_a_small_file_cannot_claim_other_sizes_than_its_header() -> None:
    _, data = make_file(slices=2, spread=0.0)
    head, volume, codes = taken_apart(data)
    for height, width in ((2000, 2000), (14, 11), (1, 154)):
        with pytest.raises(ValueError, match=f"{height} x {width} pixels"):
            unpack(put_together(head, struct.pack("<HH", height, width) + volume[4:], codes), coder())
