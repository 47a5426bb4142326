"""The compressed file gives back its tokens and header, counts every bit, and says so when it is not whole."""

import contextlib
import dataclasses
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from data.bitstream import container
from data.bitstream.coders import CODERS
from data.bitstream.container import pack, unpack
from data.bitstream.header import Header
from data.preprocess import plan
from utils.layout import LAYOUTS, FrameLayout, ImageLayout, SequenceLayout


def frames(tokens: int = 4, anatomy: int = 2, codes: int = 4096, anatomy_codes: int = 1000) -> FrameLayout:
    return FrameLayout(tokens, codes, anatomy, anatomy_codes)


CINE = SequenceLayout(32, 64000)


def make_header(**changes: Any) -> Header:
    header = Header(
        slices=3,
        phases=5,
        layout=frames(),
        geometry=plan((216, 256), 128, "crop", (100.0, 30.0)),
        window=(0.0, 523.25),
        spacing_mm=(1.5, 1.25, 8.0),
        affine=np.diag([1.5, 1.25, 8.0, 1.0]),
    )
    return dataclasses.replace(header, **changes)


def make_tokens(header: Header, seed: int = 0, absent: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layout, rows = header.layout, header.slices
    tokens = np.concatenate(
        [
            rng.integers(0, header.phases, (rows, 2)),
            rng.integers(0, layout.codebook_size, (rows, header.phases * layout.num_tokens)),
            rng.integers(0, max(1, layout.anatomy_codebook_size), (rows, 2 * layout.num_anatomy)),
        ],
        axis=1,
    )
    return np.where(rng.random(tokens.shape) < absent, -1, tokens)


def as_written(header: Header) -> tuple[Any, ...]:
    """The header's values, arrays as lists."""
    values = (getattr(header, field.name) for field in dataclasses.fields(header))
    return tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in values)


def test_tokens_and_header_come_back() -> None:
    header = make_header()
    tokens, found = unpack(pack(make_tokens(header), header))
    assert tokens.dtype == np.int64
    np.testing.assert_array_equal(tokens, make_tokens(header))
    assert as_written(found) == as_written(header)


@pytest.mark.parametrize("seed", range(40))
def test_random_tokens_with_and_without_absent_ones_come_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    header = make_header(
        slices=int(rng.integers(1, 5)),
        phases=int(rng.integers(1, 9)),
        layout=frames(
            int(rng.integers(1, 9)),
            int(rng.integers(0, 4)),
            int(rng.integers(1, 70000)),
            int(rng.integers(1, 5000)),
        ),
    )
    tokens = make_tokens(header, seed, absent=float(rng.choice([0, 0.01, 0.5, 0.99, 1])))
    if seed % 2:
        tokens[0, 2 : 2 + header.layout.num_tokens] = -1  # a phase that is wholly absent
    found, _ = unpack(pack(tokens, header))
    np.testing.assert_array_equal(found, tokens)


def test_the_same_tokens_give_the_same_bytes() -> None:
    header = make_header()
    assert pack(make_tokens(header), header) == pack(make_tokens(header), header)


def test_the_bits_are_those_of_the_file(tmp_path: Any) -> None:
    header = make_header()
    data = pack(make_tokens(header), header)
    (tmp_path / "cine.ttm").write_bytes(data)
    assert (tmp_path / "cine.ttm").stat().st_size == len(data)


def test_an_id_costs_its_width_and_no_more() -> None:
    small, large = make_header(layout=frames(8)), make_header(layout=frames(16))
    saved = len(pack(make_tokens(large), large)) - len(pack(make_tokens(small), small))
    assert saved * 8 == 3 * 5 * 8 * 12


def test_anatomy_is_counted() -> None:
    without, with_anatomy = make_header(layout=frames(anatomy=0)), make_header(layout=frames(anatomy=4))
    added = len(pack(make_tokens(with_anatomy), with_anatomy)) - len(pack(make_tokens(without), without))
    assert added * 8 == 3 * 2 * 4 * 10


def test_anatomy_that_is_not_sent_costs_nothing() -> None:
    header, without = make_header(layout=frames(anatomy=4)), make_header(layout=frames(anatomy=0))
    tokens = make_tokens(header)
    tokens[:, -8:] = -1
    assert len(pack(tokens, header)) == len(pack(tokens[:, :-8], without))


@pytest.mark.parametrize("kept", [1, 5, 7])
def test_a_prefix_of_every_frame_costs_its_ids_and_two_bytes_once(kept: int) -> None:
    header, short = make_header(layout=frames(8)), make_header(layout=frames(kept))
    tokens = make_tokens(header)
    tokens[:, 2:-4].reshape(3, 5, 8)[:, :, kept:] = -1
    data = pack(tokens, header)
    np.testing.assert_array_equal(unpack(data)[0], tokens)
    assert len(data) - len(pack(make_tokens(short), short)) == 2


@pytest.mark.parametrize("kept", [0, 1, 20, 32])
def test_the_tokens_of_a_whole_cine_come_back_and_cost_their_width(kept: int) -> None:
    header = make_header(layout=CINE)
    tokens = np.random.default_rng(0).integers(0, 64000, 32)
    tokens[kept:] = -1
    data = pack(tokens, header)
    found, read = unpack(data)
    np.testing.assert_array_equal(found, tokens)
    assert as_written(read) == as_written(header)
    tokens[:] = -1
    assert len(data) - len(pack(tokens, header)) == 2 * kept + (2 if 0 < kept < 32 else 0)


def test_tokens_of_another_layout_are_refused() -> None:
    header = make_header(layout=CINE)
    with pytest.raises(ValueError, match=r"expected integers of shape \(32,\)"):
        pack(make_tokens(make_header()), header)
    with pytest.raises(ValueError, match="expected one of frame, sequence"):
        make_header(layout=ImageLayout(32, 64000))


def test_a_phase_that_is_not_sent_costs_two_bits() -> None:
    header = make_header(layout=frames(32))
    tokens = make_tokens(header)
    whole = len(pack(tokens, header))
    tokens[1, 2 : 2 + 32] = -1
    assert (whole - len(pack(tokens, header))) * 8 == pytest.approx(32 * 12 - 15 * 2, abs=8)


def test_indices_shared_by_the_slices_are_written_once() -> None:
    header = make_header(slices=8)
    tokens = make_tokens(header)
    apart = len(pack(tokens, header))
    tokens[:, :2] = (0, 3)
    assert (apart - len(pack(tokens, header))) * 8 == pytest.approx(7 * 2 * 3, abs=8)


def test_the_file_starts_with_a_magic_that_says_research_use_only() -> None:
    header = make_header()
    assert pack(make_tokens(header), header).startswith(b"TTMRI-RUO")


def test_every_damaged_byte_is_detected() -> None:
    header = make_header()
    data = pack(make_tokens(header), header)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x10
        with pytest.raises(ValueError, match=r"damaged|not a TiTok-MRI file|version|cut short"):
            unpack(bytes(broken))


def test_a_damaged_payload_is_named_as_damage() -> None:
    header = make_header()
    data = bytearray(pack(make_tokens(header), header))
    data[-10] ^= 1
    with pytest.raises(ValueError, match="damaged: checksum"):
        unpack(bytes(data))


def test_every_truncation_is_detected() -> None:
    header = make_header()
    data = pack(make_tokens(header), header)
    for length in range(1, len(data)):
        with pytest.raises(ValueError, match="cut short"):
            unpack(data[:length])


def test_bytes_after_the_end_are_detected() -> None:
    header = make_header()
    with pytest.raises(ValueError, match="damaged"):
        unpack(pack(make_tokens(header), header) + b"\0")


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b\x08\x00" * 20, b"n+1\0" * 100])
def test_a_foreign_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a TiTok-MRI file"):
        unpack(data)


def test_another_version_is_refused() -> None:
    header = make_header()
    data = bytearray(pack(make_tokens(header), header))
    data[len(container.MAGIC)] = 9
    with pytest.raises(ValueError, match="version 9"):
        unpack(bytes(data))


def test_forged_headers_with_a_right_checksum_never_raise_anything_but_value_error() -> None:
    header = make_header()
    data = pack(make_tokens(header), header)
    rng = np.random.default_rng(0)
    for _ in range(400):
        body = bytearray(data[:-4])
        for position in rng.integers(len(container.MAGIC) + 5, 70, 3):
            body[position] = rng.integers(256)
        with contextlib.suppress(ValueError):
            unpack(bytes(body) + struct.pack("<I", zlib.crc32(body)))


def test_an_id_outside_its_codebook_is_refused() -> None:
    header = make_header()
    tokens = make_tokens(header)
    tokens[2, 7] = 4096
    with pytest.raises(ValueError, match=r"latent token 4096 is out of range: expected .* 0 to 4095"):
        pack(tokens, header)


def test_a_phase_index_outside_the_cine_is_refused() -> None:
    header = make_header()
    tokens = make_tokens(header)
    tokens[:, 1] = 5
    with pytest.raises(ValueError, match=r"ED/ES index 5 is out of range: expected .* 0 to 4"):
        pack(tokens, header)


def test_tokens_of_another_shape_are_refused() -> None:
    header = make_header()
    with pytest.raises(ValueError, match=r"\(3, 25\).*\(3, 26\)"):
        pack(make_tokens(header)[:, :-1], header)


def test_every_layout_of_cines_has_a_coder() -> None:
    assert set(CODERS) == set(LAYOUTS)
