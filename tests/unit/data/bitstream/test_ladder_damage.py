"""A damaged file of layout `ladder` is refused, or decoded as far as its slices are whole."""

import struct

import numpy as np
import pytest
import torch

from data.bitstream.container import pack, read_parts, unpack
from data.bitstream.ladder import code_slices
from data.bitstream.ladder_volume import read_volume
from tests.ladders import fixed_ladder
from tests.unit.data.bitstream.test_ladder import (
    SIZE,
    SLICE,
    START,
    coder,
    make_file,
    put_together,
    sealed,
    taken_apart,
)
from utils.ladder.symbols import from_residual_ids
from utils.layout import LadderLayout


def test_every_damaged_byte_is_detected() -> None:
    _, data = make_file((5, 6), slices=1, phases=2, rank=2)
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 0x10
        with pytest.raises(ValueError, match=r"damaged|not a TiTok-MRI file|version|cut short"):
            unpack(bytes(broken), coder())


@pytest.mark.parametrize("cut", [1, 2, 5, 30])
def test_a_cut_file_is_refused_with_valid_checksums_too_and_can_be_decoded_in_part(cut: int) -> None:
    tokens, data = make_file(slices=3)
    with pytest.raises(ValueError, match="cut short"):
        unpack(data[:-cut], coder())
    with pytest.raises(ValueError, match="damaged"):
        unpack(sealed(data[: -4 - cut]), coder())
    for file in (data[:-cut], sealed(data[: -4 - cut])):
        damaged: list[int] = []
        found, _ = unpack(file, coder(), damaged)
        assert damaged == [2]
        np.testing.assert_array_equal(found[:2], tokens[:2])


def test_a_file_that_is_cut_before_its_first_code_cannot_be_decoded_in_part() -> None:
    _, data = make_file(slices=3)
    head, volume, codes = taken_apart(data)
    start = len(head) + len(volume) + 3 * SLICE.size
    for length in (10, 40, len(head), start - 7, start - 1, start, start + len(codes[0])):
        with pytest.raises(ValueError, match=r"cut short|damaged|not valid"):
            unpack(data[:length], coder(), [])


@pytest.mark.parametrize("more", [b"\0", b"\0\0\0\0", b"\x17"])
def test_bytes_after_the_end_are_refused_with_valid_checksums_too(more: bytes) -> None:
    _, data = make_file(slices=2)
    with pytest.raises(ValueError, match="damaged"):
        unpack(data + more, coder())
    with pytest.raises(ValueError, match="damaged"):
        unpack(sealed(data[:-4] + more), coder())
    head, volume, codes = taken_apart(data)
    with pytest.raises(ValueError, match="the code of slice 1 is not valid"):
        unpack(put_together(head, volume, [codes[0], codes[1] + more]), coder())


def test_zeros_at_the_end_of_the_code_of_the_volume_are_refused() -> None:
    _, data = make_file(slices=2)
    head, volume, codes = taken_apart(data)
    assert put_together(head, volume, codes) == data
    at = 9
    (length,) = struct.unpack_from("<H", volume, at)
    longer = volume[:at] + struct.pack("<H", length + 1) + volume[at + 2 : -4] + b"\0" + volume[-4:]
    with pytest.raises(ValueError, match="not canonical"):
        unpack(put_together(head, longer, codes), coder())


@pytest.mark.parametrize("bit", [1, 2, 3, 4, 5, 6, 7])
def test_a_spare_bit_is_refused(bit: int) -> None:
    """Bit 0 says that base tokens follow, of which this file has none; bit 1 that a region follows."""
    _, data = make_file(slices=2)
    head, volume, codes = taken_apart(data)
    changed = bytearray(volume)
    changed[8] ^= 1 << bit
    with pytest.raises(ValueError, match=r"damaged|not canonical"):
        unpack(put_together(head, bytes(changed), codes), coder())


@pytest.mark.parametrize("bit", range(4))
def test_a_padding_bit_of_base_tokens_is_refused(bit: int) -> None:
    _, data = make_file(slices=2, base=6)
    head, volume, codes = taken_apart(data)
    changed = bytearray(volume)
    changed[9 + 4] ^= 1 << bit  # 6 ids of 6 bits are 36 bits in 5 bytes
    with pytest.raises(ValueError, match="not canonical"):
        unpack(put_together(head, bytes(changed), codes), coder())


@pytest.mark.parametrize(("at", "bit"), [(1, 2), (1, 3), (1, 6), (2, 0), (2, 1), (2, 6), (2, 7)])
def test_a_spare_bit_of_the_header_is_refused(at: int, bit: int) -> None:
    """Flags and options of the header have bits that a ladder does not use."""
    _, data = make_file(slices=2)
    changed = bytearray(data[:-4])
    changed[START + at] ^= 1 << bit
    with pytest.raises(ValueError, match=r"not canonical|token table|damaged"):
        unpack(sealed(bytes(changed)), coder())


def test_swapped_slices_are_refused_or_the_file_of_the_swapped_tokens() -> None:
    tokens, data = make_file(slices=2)
    head, volume, codes = taken_apart(data)
    with pytest.raises(ValueError, match=r"damaged: slice\(s\) 0, 1"):
        unpack(put_together(head, volume, codes[::-1], table=codes), coder())
    found, _ = unpack(put_together(head, volume, codes[::-1]), coder())
    np.testing.assert_array_equal(found, tokens[::-1])


def test_energy_classes_that_are_not_those_of_the_symbols_are_refused() -> None:
    _, data = make_file(slices=2)
    head, volume, _ = taken_apart(data)
    read, _ = read_volume(read_parts(data).header.layout, volume, 4)
    zeros = from_residual_ids(np.zeros((2, read.layout.rank, SIZE[0] * SIZE[1]), np.int64), *SIZE)
    with pytest.raises(ValueError, match="its energy classes are not those of its symbols"):
        unpack(put_together(head, volume, code_slices(read, zeros, coder())), coder())


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("slices", [(1,), (0, 3)])
def test_a_damaged_slice_is_named_and_the_others_can_be_decoded(slices: tuple[int, ...], sound: bool) -> None:
    """The checksum of the damaged slice may be right, as of a file that a faulty program wrote."""
    tokens, data = make_file(slices=4)
    head, volume, codes = taken_apart(data)
    broken = [bytes([code[0] ^ 0x55]) + code[1:] if z in slices else code for z, code in enumerate(codes)]
    file = put_together(head, volume, broken, None if sound else codes)
    names = str(slices[0]) if sound else ", ".join(map(str, slices))
    with pytest.raises(ValueError, match=rf"damaged.*slice(\(s\))? {names}\b"):
        unpack(file, coder())
    damaged: list[int] = []
    found, _ = unpack(file, coder(), damaged)
    assert damaged == list(slices)
    good = [z for z in range(4) if z not in slices]
    np.testing.assert_array_equal(found[good], tokens[good])
    np.testing.assert_array_equal(found[:, :9], tokens[:, :9])
    layout = LadderLayout(0, 1).of(found)
    residual = layout.split(found, 4, 4)["residual"][list(slices)]
    assert set(np.unique(residual)) <= {-1, 0}
    assert fixed_ladder().decode_tokens(torch.from_numpy(found)[None]).shape == (1, 1, *SIZE, 4, 4)


def test_a_whole_file_has_no_damaged_slice_even_if_its_own_checksum_is_wrong() -> None:
    tokens, data = make_file(slices=3)
    damaged: list[int] = []
    for file in (data, data[:-1] + bytes([data[-1] ^ 1])):
        np.testing.assert_array_equal(unpack(file, coder(), damaged)[0], tokens)
    assert damaged == []


def test_a_file_without_a_good_slice_and_one_with_a_damaged_volume_part_cannot_be_decoded_in_part() -> None:
    _, data = make_file(slices=2)
    head, volume, codes = taken_apart(data)
    with pytest.raises(ValueError, match="no slice can be decoded"):
        unpack(put_together(head, volume, codes[::-1], codes), coder(), [])
    broken = bytearray(data)
    broken[len(head) + 12] ^= 1
    with pytest.raises(ValueError, match="what belongs to all slices has another checksum"):
        unpack(bytes(broken), coder(), [])


def test_every_changed_bit_is_refused_or_makes_the_file_of_another_content() -> None:
    _, data = make_file((5, 6), slices=2, phases=9, rank=1, seed=3)
    head, volume, codes = taken_apart(data)
    read = 0
    for bit in range(0, 8 * (len(volume) - 4 + sum(map(len, codes))), 3):
        changed = bytearray(volume[:-4] + b"".join(codes))
        changed[bit // 8] ^= 1 << bit % 8
        first = len(volume) - 4
        middle = first + len(codes[0])
        file = put_together(
            head, bytes(changed[:first]) + bytes(4), [bytes(changed[first:middle]), bytes(changed[middle:])]
        )
        try:
            tokens, header = unpack(file, coder())
        except ValueError:
            continue
        assert pack(tokens, header, coder()) == file
        read += 1
    assert read > 0
