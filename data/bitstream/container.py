"""The compressed file: the tokens of one cine, and the header from which a NIfTI file can be restored.

    magic · version · length ─ header ─ optional affine, scaling, outside, time, table ─ payload ─ CRC32
                                                                                            └ the tokens, see payload.py

docs/format.md describes it byte by byte. A file is canonical: tokens and header have exactly one file, and `unpack`
refuses any other. The magic ends in RUO: research use only, not a medical device.

Axes: D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from data.bitstream.coders import CODERS, Model, table_of
from data.bitstream.entropy import TokenTable
from data.bitstream.header import DTYPES, Header
from data.bitstream.payload import Payload, needs_table
from data.case import MM
from data.preprocess import MODES, Geometry
from utils.layout import LAYOUTS

MAGIC = b"TTMRI-RUO"
VERSION = 3

_PREFIX = struct.Struct(f"<{len(MAGIC)}sBI")  # magic, version, length of the whole file
_FIXED = struct.Struct("<BBB QI 4HII B3H2h 2f3fB")  # see `_pack_header`
_AFFINE, _SCALING, _OUTSIDE, _TIME = (struct.Struct(code) for code in ("<12f", "<2f", "<f", "<fB"))
_TABLE, _CRC = struct.Struct("<I"), struct.Struct("<I")
_HAS_AFFINE, _HAS_SCALING, _STATES_SHIFT = 1, 2, 2  # flags; above them the states of payload.py
_CODING, _HAS_OUTSIDE, _HAS_TIME = 3, 4, 8  # options; the lowest two bits are the coding of payload.py
_UNIT_SHIFT, _UNIT = 4, 3  # of the options: unit of length as NIfTI's code, exclusive-or that of mm


def pack(tokens: np.ndarray, header: Header, model: Model = None) -> bytes:
    """The whole compressed file.

    Args:
        tokens: integers of the layout's shape, -1 where not transmitted.
        header: what belongs to them.
        model: what predicts the tokens. Layout `ladder`: its context model. Other layouts: frequencies of the frame
            tokens, where the model has them; used where that makes the file smaller.

    Returns:
        The bytes of the file; its bit rate is `len(...) * 8` bits per cine.

    Raises:
        ValueError: when the tokens do not have the shape of the layout, or an id is outside its codebook.
    """
    payload = CODERS[header.layout.name].write(np.asarray(tokens), header, model)
    return _pack(header, payload, table_of(model))


def _pack(header: Header, payload: Payload, table: TokenTable | None) -> bytes:
    """The whole file of tokens that are bytes already."""
    head = _pack_header(header, payload, table)
    length = _PREFIX.size + len(head) + len(payload.data) + _CRC.size
    body = _PREFIX.pack(MAGIC, VERSION, length) + head + payload.data
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes, model: Model = None, damaged: list[int] | None = None) -> tuple[np.ndarray, Header]:
    """The tokens and the header of a compressed file.

    Args:
        data: what `pack` gave, whole.
        model: as for `pack`.
        damaged: layout `ladder`: decode a damaged file as far as possible, and add the slices that cannot be decoded;
            None refuses it.

    Returns:
        The tokens as passed to `pack`, int64, and the header (real numbers rounded to float32).

    Raises:
        ValueError: foreign, cut short, damaged, not canonical, or written by another version or with another table.
    """
    parts = read_parts(data, checked=damaged is None)
    header, table = parts.header, table_of(model)
    if parts.table_crc is not None and (table is None or table.crc != parts.table_crc):
        raise ValueError(
            f"the ids of the compressed file are coded with the token table {parts.table_crc:08x} of a model, "
            f"found {'none' if table is None else f'{table.crc:08x}'}; give the folder of the model that wrote it"
        )
    tokens, payload = CODERS[header.layout.name].read(parts.payload, header, model, damaged)
    if damaged is None and _pack(header, payload, table) != data:
        raise ValueError(
            "the compressed file is not canonical: its content is written as other bytes; compress the cine again"
        )
    return tokens, header


class Parts(NamedTuple):
    """A compressed file whose tokens are not decoded yet.

    Args:
        header: of the file.
        payload: the tokens as bytes.
        table_crc: checksum of the token table that is needed; None where the tokens need none.
        head_bytes: bytes of magic, version, length, header and its optional parts.
    """

    header: Header
    payload: Payload
    table_crc: int | None
    head_bytes: int


def read_parts(data: bytes, checked: bool = True) -> Parts:
    """Check a compressed file and read its header.

    Args:
        data: the file.
        checked: whether length and checksum of the whole file must be right.

    Raises:
        ValueError: foreign, cut short, damaged, or written by another version.
    """
    _check_file(data, checked)
    return _unpack_header(data)


def _pack_header(header: Header, payload: Payload, table: TokenTable | None) -> bytes:
    geometry, layout, affine = header.geometry, header.layout, np.asarray(header.affine, np.float64)
    has_affine = not np.array_equal(affine, np.diag([*header.spacing_mm, 1.0]))
    has_scaling = (header.slope, header.intercept) != (1.0, 0.0)
    has_outside, has_time = header.outside is not None, (header.time_step, header.time_unit) != (0.0, 0)
    packed = _FIXED.pack(
        list(LAYOUTS).index(layout.name),
        payload.states << _STATES_SHIFT | _HAS_AFFINE * has_affine | _HAS_SCALING * has_scaling,
        payload.coding | _HAS_OUTSIDE * has_outside | _HAS_TIME * has_time | (header.length_unit ^ MM) << _UNIT_SHIFT,
        *(header.tokens_id, header.pixels_id),
        *(header.slices, header.phases, layout.num_tokens, layout.num_anatomy),
        *(layout.codebook_size, layout.anatomy_codebook_size),
        MODES.index(geometry.mode),
        *(*geometry.native_hw, geometry.size, *geometry.offset),
        *(*header.window, *header.spacing_mm),
        DTYPES.index(header.dtype),
    )
    packed += _AFFINE.pack(*affine[:3].ravel()) if has_affine else b""
    packed += _SCALING.pack(header.slope, header.intercept) if has_scaling else b""
    packed += _OUTSIDE.pack(header.outside) if has_outside else b""
    packed += _TIME.pack(header.time_step, header.time_unit) if has_time else b""
    return packed + (_TABLE.pack(table.crc) if table is not None and needs_table(payload.coding) else b"")


def _unpack_header(data: bytes) -> Parts:
    """The header, the payload, and what it needs."""
    start = _PREFIX.size

    def take(part: struct.Struct) -> tuple[Any, ...]:
        nonlocal start
        values = part.unpack_from(data, start)
        start += part.size
        return values

    try:
        layout, flags, options, tokens_id, pixels_id, slices, phases, latents, anatomy, *rest = take(_FIXED)
        size, anatomy_size, mode, height, width, side, row, col, low, high, *spacing, dtype = rest
        affine = np.diag([*spacing, 1.0])
        if flags & _HAS_AFFINE:
            affine[:3] = np.reshape(take(_AFFINE), (3, 4))
        slope, intercept = take(_SCALING) if flags & _HAS_SCALING else (1.0, 0.0)
        outside = take(_OUTSIDE)[0] if options & _HAS_OUTSIDE else None
        time_step, time_unit = take(_TIME) if options & _HAS_TIME else (0.0, 0)
        coding = options & _CODING
        table_crc = take(_TABLE)[0] if needs_table(coding) else None
        header = Header(
            slices,
            phases,
            list(LAYOUTS.values())[layout](latents, size, anatomy, anatomy_size),
            geometry=Geometry(MODES[mode], (height, width), side, (row, col)),
            window=(low, high),
            spacing_mm=(spacing[0], spacing[1], spacing[2]),
            affine=affine,
            slope=slope,
            intercept=intercept,
            dtype=DTYPES[dtype],
            tokens_id=tokens_id,
            pixels_id=pixels_id,
            outside=outside,
            time_step=time_step,
            time_unit=time_unit,
            length_unit=options >> _UNIT_SHIFT & _UNIT ^ MM,
        )
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"the header of the compressed file is not valid ({error}); compress the cine again") from None
    payload = Payload(flags >> _STATES_SHIFT, coding, data[start : -_CRC.size])
    return Parts(header, payload, table_crc, start)


def _check_file(data: bytes, whole: bool) -> None:
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        reason = f"it starts with {data[: len(MAGIC)]!r}, expected {MAGIC!r}" if data else "it is empty"
        raise ValueError(f"not a TiTok-MRI file: {reason}; give a file that scripts/compress.py wrote")
    if len(data) < _PREFIX.size:
        raise ValueError(
            f"the compressed file is cut short: {len(data)} bytes, expected at least {_PREFIX.size}; copy it again"
        )
    _, version, length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ValueError(
            f"the compressed file has version {version}, expected {VERSION}; use the release that wrote it"
        )
    if not whole:
        return
    if len(data) < length:
        raise ValueError(f"the compressed file is cut short: {len(data)} of {length} bytes; copy it again")
    if len(data) > length or length < _PREFIX.size + _CRC.size:
        raise ValueError(f"the compressed file is damaged: {len(data)} bytes, expected {length}; copy it again")
    (expected,) = _CRC.unpack(data[-_CRC.size :])
    if (checksum := zlib.crc32(data[: -_CRC.size])) != expected:
        raise ValueError(
            f"the compressed file is damaged: checksum {checksum:08x}, expected {expected:08x}; copy it again"
        )
