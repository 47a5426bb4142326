"""The compressed file: the tokens of one cine, and the header from which a NIfTI file can be restored.

    magic · version · length ─ header ─ optional affine, scaling ─ payload ─ CRC32
                                                                   └ the tokens, see data/bitstream/payload.py

The magic number ends with RUO: research use only, not a medical device.

Axes: D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from data.bitstream.bits import BitReader
from data.bitstream.payload import tokens_from_bits, tokens_to_bits
from data.case import CineCase
from data.preprocess import MODES, Geometry, Prepared
from utils.layout import LAYOUTS, TokenLayout

MAGIC = b"TTMRI-RUO"
VERSION = 2
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64")
MAX_TOKENS = 1 << 24  # limits the memory that a forged header can allocate

_PREFIX = struct.Struct(f"<{len(MAGIC)}sBI")  # magic, version, length of the whole file
_FIXED = struct.Struct("<BB4HII B3H2h 2f3fB")  # see `_pack_header`
_AFFINE, _SCALING, _CRC = struct.Struct("<12f"), struct.Struct("<2f"), struct.Struct("<I")
_HAS_AFFINE, _HAS_SCALING, _STATES_SHIFT = 1, 2, 2  # flags; the bits above hold the states of data/bitstream/payload.py


@dataclass(frozen=True, eq=False)
class Header:
    """The content of the file other than the tokens.

    Args:
        slices: D.
        phases: T.
        layout: layout of the tokens, see utils/layout.py.
        geometry: transform from the native grid to the model grid.
        window: (low, high) real values that are mapped to 0 and 1.
        spacing_mm: native spacing along H, W, D.
        affine: (4, 4) voxel -> world in mm; written only if it is not the diagonal matrix of the spacing.
        slope: real value = stored * slope + intercept.
        intercept: see slope; both are written only if they are not (1, 0).
        dtype: data type of the stored values.

    Raises:
        ValueError: for a field, which is named, that is out of range.
    """

    slices: int
    phases: int
    layout: TokenLayout
    geometry: Geometry
    window: tuple[float, float]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0
    dtype: str = "int16"

    def __post_init__(self) -> None:
        layout = self.layout
        for name, count, low in (
            ("slices", self.slices, 1),
            ("phases", self.phases, 1),
            ("number of latent tokens", layout.num_tokens, 1),
            ("number of anatomy tokens", layout.num_anatomy, 0),
        ):
            _in_range(name, count, low, 0xFFFF)
        _in_range("codebook size", layout.codebook_size, 1, 1 << 31)
        _in_range("anatomy codebook size", layout.anatomy_codebook_size, 1 if layout.num_anatomy else 0, 1 << 31)
        if layout.name not in LAYOUTS:
            raise ValueError(f"the layout is {layout.name!r}, expected one of {', '.join(LAYOUTS)}")
        _in_range("number of tokens", math.prod(layout.shape(self.slices, self.phases)), 1, MAX_TOKENS)
        for name, size in zip(
            ("native height", "native width", "model grid"), (*self.geometry.native_hw, self.geometry.size), strict=True
        ):
            _in_range(name, size, 1, 0xFFFF)
        for start in self.geometry.offset:
            _in_range("geometry offset", start, -0x8000, 0x7FFF)
        if not (np.isfinite(self.window).all() and self.window[0] < self.window[1]):
            raise ValueError(f"the window is {self.window}, expected finite values (low, high) with low < high")
        if not (np.isfinite(self.spacing_mm).all() and min(self.spacing_mm) > 0):
            raise ValueError(f"the spacing is {self.spacing_mm} mm, expected three positive lengths")
        if np.shape(self.affine) != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError(f"the affine has shape {np.shape(self.affine)}, expected a finite (4, 4) matrix")
        if not (np.isfinite([self.slope, self.intercept]).all() and self.slope != 0):
            raise ValueError(f"slope {self.slope}, intercept {self.intercept}: expected finite values, slope not 0")
        if self.dtype not in DTYPES:
            raise ValueError(f"the dtype is {self.dtype!r}, expected one of {', '.join(DTYPES)}")


def header_for(case: CineCase, prepared: Prepared, layout: TokenLayout) -> Header:
    """Return the header of a case.

    Args:
        case: the native cine.
        prepared: the cine on the model grid.
        layout: layout of the tokens, `model.layout`.

    Returns:
        The header for `pack`.
    """
    slices, phases = case.cine.shape[2:]
    return Header(
        slices=slices,
        phases=phases,
        layout=layout,
        geometry=prepared.geometry,
        window=prepared.window,
        spacing_mm=case.spacing_mm,
        affine=np.asarray(case.affine, np.float64),
        slope=case.slope,
        intercept=case.intercept,
        dtype=case.cine.dtype.name,
    )


def pack(tokens: np.ndarray, header: Header) -> bytes:
    """Write tokens and header as a compressed file.

    Args:
        tokens: integers of the shape of the layout, -1 if not transmitted.
        header: header of the cine.

    Returns:
        The bytes of the file; its bit rate is `len(...) * 8` bits per cine.

    Raises:
        ValueError: when the tokens do not have the shape of the layout, or an id is outside its codebook.
    """
    states, bits = tokens_to_bits(header.layout, np.asarray(tokens), header.slices, header.phases)
    head = _pack_header(header, states << _STATES_SHIFT)
    payload = np.packbits(np.concatenate(bits)).tobytes()
    length = _PREFIX.size + len(head) + len(payload) + _CRC.size
    body = _PREFIX.pack(MAGIC, VERSION, length) + head + payload
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes) -> tuple[np.ndarray, Header]:
    """Read tokens and header from a compressed file.

    Args:
        data: all bytes of the file, from `pack`.

    Returns:
        The tokens as passed to `pack`, int64, and the header (real numbers rounded to float32).

    Raises:
        ValueError: when the file has another format or version, is truncated or is damaged.
    """
    _check_file(data)
    header, flags, start = _unpack_header(data)
    reader = BitReader(data[start : -_CRC.size])
    tokens = tokens_from_bits(header.layout, reader, header.slices, header.phases, flags >> _STATES_SHIFT)
    return tokens, header


def _pack_header(header: Header, flags: int) -> bytes:
    geometry, layout, affine = header.geometry, header.layout, np.asarray(header.affine, np.float64)
    has_affine = not np.array_equal(affine, np.diag([*header.spacing_mm, 1.0]))
    has_scaling = (header.slope, header.intercept) != (1.0, 0.0)
    packed = _FIXED.pack(
        list(LAYOUTS).index(layout.name),
        flags | _HAS_AFFINE * has_affine | _HAS_SCALING * has_scaling,
        *(header.slices, header.phases, layout.num_tokens, layout.num_anatomy),
        *(layout.codebook_size, layout.anatomy_codebook_size),
        MODES.index(geometry.mode),
        *(*geometry.native_hw, geometry.size, *geometry.offset),
        *(*header.window, *header.spacing_mm),
        DTYPES.index(header.dtype),
    )
    packed += _AFFINE.pack(*affine[:3].ravel()) if has_affine else b""
    return packed + (_SCALING.pack(header.slope, header.intercept) if has_scaling else b"")


def _unpack_header(data: bytes) -> tuple[Header, int, int]:
    """Return the header, the flags, and the position of the payload in bytes."""
    try:
        fields = _FIXED.unpack_from(data, _PREFIX.size)
        start = _PREFIX.size + _FIXED.size
        layout, flags, slices, phases, latents, anatomy, size, anatomy_size, mode, height, width = fields[:11]
        side, row, col, low, high, *spacing, dtype = fields[11:]
        affine, scaling = np.diag([*spacing, 1.0]), (1.0, 0.0)
        if flags & _HAS_AFFINE:
            affine[:3] = np.reshape(_AFFINE.unpack_from(data, start), (3, 4))
            start += _AFFINE.size
        if flags & _HAS_SCALING:
            scaling = _SCALING.unpack_from(data, start)
            start += _SCALING.size
        header = Header(
            slices,
            phases,
            list(LAYOUTS.values())[layout](latents, size, anatomy, anatomy_size),
            geometry=Geometry(MODES[mode], (height, width), side, (row, col)),
            window=(low, high),
            spacing_mm=(spacing[0], spacing[1], spacing[2]),
            affine=affine,
            slope=scaling[0],
            intercept=scaling[1],
            dtype=DTYPES[dtype],
        )
    except (struct.error, IndexError, ValueError) as error:
        raise ValueError(f"the header of the compressed file is invalid ({error}); compress the cine again") from None
    return header, flags, start


def _check_file(data: bytes) -> None:
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise ValueError(f"not a TiTok-MRI file: it starts with {data[: len(MAGIC)]!r}, expected {MAGIC!r}")
    if len(data) < _PREFIX.size:
        raise ValueError(
            f"the compressed file is cut short: {len(data)} bytes, expected at least {_PREFIX.size}; copy it again"
        )
    _, version, length = _PREFIX.unpack_from(data)
    if version != VERSION:
        raise ValueError(
            f"the compressed file has version {version}, expected {VERSION}; use the release that wrote it"
        )
    if len(data) < length:
        raise ValueError(f"the compressed file is cut short: {len(data)} of {length} bytes; copy it again")
    if len(data) > length or length < _PREFIX.size + _CRC.size:
        raise ValueError(f"the compressed file is damaged: {len(data)} bytes, expected {length}; copy it again")
    (expected,) = _CRC.unpack(data[-_CRC.size :])
    if (checksum := zlib.crc32(data[: -_CRC.size])) != expected:
        raise ValueError(
            f"the compressed file is damaged: checksum {checksum:08x}, expected {expected:08x}; copy it again"
        )


def _in_range(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, expected {low} to {high}")
