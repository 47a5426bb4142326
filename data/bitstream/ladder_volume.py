"""What belongs to all slices of a file of layout `ladder`: sizes, step, base tokens, energy classes, temporal basis.

Axes: T phases, R components, H and W of the coded field, N base tokens.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np

from data.bitstream.bits import BitReader, id_width, to_bits
from data.bitstream.entropy import QUEUE, REFUSED, categorical
from utils.ladder.pyramid import band_shapes
from utils.ladder.symbols import ENERGIES, LADDER_BASIS, LADDER_GAIN
from utils.layout import LadderLayout

_SIZES, _REGION, _LENGTH, _CHECKSUM = (struct.Struct(code) for code in ("<HHBHBB", "<4H", "<H", "<I"))
MOST_SYMBOLS = 1 << 25  # of a slice
MOST_PHASES, MOST_RANK = 1000, 255
TABLE_BITS = 20
DAMAGED = "the compressed file is damaged"


class Volume(NamedTuple):
    """What belongs to all slices.

    Args:
        layout: with H, W and R.
        step_index: of the quantizer.
        region: (4,) row, column, radius, gain of the region of finer steps; -1 for none.
        base: (N,) ids, -1 where not transmitted.
        energies: (bands, R) energy classes.
        basis: (T, R) ids, -1 in components without symbols.
    """

    layout: LadderLayout
    step_index: int
    region: np.ndarray
    base: np.ndarray
    energies: np.ndarray
    basis: np.ndarray


def write_volume(volume: Volume) -> bytes:
    """Write what belongs to all slices, with a checksum."""
    layout, rank = volume.layout, _rank(volume.energies)
    check_volume(volume, len(volume.basis))
    present = bool((volume.base >= 0).all() and volume.base.size)
    if not present and (volume.base >= 0).any():
        raise ValueError("some base tokens are -1 and some are not: expected all or none")
    base = np.packbits(to_bits(volume.base, id_width(layout.codebook_size))).tobytes() if present else b""
    coder = QUEUE.RangeEncoder()
    _code_energies(volume.energies[:, :rank], rank, len(volume.energies), coder)
    if rank:
        coder.encode(volume.basis[:, :rank].astype(np.int32).ravel(), _basis_model(len(volume.basis)))
    code = coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")
    has_region = bool((volume.region >= 0).all())
    if not has_region and (volume.region >= 0).any():
        raise ValueError("some numbers of the region are -1 and some are not: expected all or none")
    flags = present | has_region << 1
    sizes = _SIZES.pack(layout.height, layout.width, layout.rank, volume.step_index, rank, flags)
    sizes += _REGION.pack(*volume.region.tolist()) if has_region else b""
    data = sizes + base + _LENGTH.pack(len(code)) + code
    return data + _CHECKSUM.pack(zlib.crc32(data))


def read_volume(
    layout: LadderLayout, data: bytes, phases: int, size: tuple[int, int] | None = None
) -> tuple[Volume, int]:
    """Read what belongs to all slices, and where the table of slices begins.

    Args:
        layout: of the model.
        data: the tokens as bytes.
        phases: T.
        size: (H, W) that the header of the file has; None for any.

    Raises:
        ValueError: for bytes that are damaged or not canonical.
    """
    try:
        height, width, rank, step_index, sent, flags = _SIZES.unpack_from(data)
        present, at, region = flags & 1, _SIZES.size, np.full(4, -1, np.int64)
        if flags & 2:
            region[:] = _REGION.unpack_from(data, at)
            at += _REGION.size
        sized = LadderLayout(layout.num_tokens, layout.codebook_size, height=height, width=width, rank=rank)
        if not (1 <= rank <= phases and sent <= rank and min(height, width) >= 1) or flags > 3:
            raise ValueError(f"{DAMAGED}: {rank} components of {phases} phases, {height} x {width} pixels")
        if size is not None and (height, width) != size:
            raise ValueError(
                f"{DAMAGED}: {height} x {width} pixels are coded, but the header has {size[0]} x {size[1]}"
            )
        base = np.full(layout.num_tokens, -1, np.int64)
        if present:
            reader = BitReader(data[at : at + -(-layout.num_tokens * id_width(layout.codebook_size) // 8)])
            base, at = reader.take(layout.num_tokens, id_width(layout.codebook_size)), at + len(reader.data)
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        code = data[at : at + length]
        (checksum,) = _CHECKSUM.unpack_from(data, at + length)
    except struct.error:
        raise ValueError(f"{DAMAGED}: {len(data)} bytes of tokens are too few") from None
    if zlib.crc32(data[: at + length]) != checksum:
        raise ValueError(f"{DAMAGED}: what belongs to all slices has another checksum; copy the file again")
    bands = sum(map(len, band_shapes(height, width)))
    _check_size(rank, height, width)
    try:
        words = np.frombuffer(code + b"\0" * (-len(code) % 4), "<u4").astype(np.uint32)
        coder = QUEUE.RangeDecoder(words)
        energies = np.zeros((bands, rank), np.int64)
        energies[:, :sent] = _code_energies(None, sent, bands, coder)
        basis = np.full((phases, rank), -1, np.int64)
        if sent:
            basis[:, :sent] = coder.decode(_basis_model(phases), phases * sent).reshape(phases, sent)
    except REFUSED as error:
        raise ValueError(f"{DAMAGED}: its energies or basis cannot be decoded ({error})") from None
    volume = Volume(sized, step_index, region, base, energies, basis)
    if write_volume(volume) != data[: at + length + _CHECKSUM.size]:
        raise ValueError("the compressed file is not canonical: what belongs to all slices has another form")
    return volume, at + length + _CHECKSUM.size


def check_volume(volume: Volume, phases: int) -> None:
    """Refuse a volume that is too large, that no encoder writes, or whose region no decoder takes.

    Raises:
        ValueError: naming the number and what was expected.
    """
    layout = volume.layout
    _check_size(layout.rank, layout.height, layout.width)
    if volume.step_index < 0:
        raise ValueError(f"the step index is {volume.step_index}, expected 0 or more")
    rank = _rank(volume.energies)
    if (volume.basis[:, :rank] < 0).any() or (volume.basis[:, rank:] >= 0).any():
        raise ValueError("the basis ids are -1 elsewhere than in the last components, which have no symbols")
    if phases > MOST_PHASES:
        raise ValueError(f"{phases} phases: expected at most {MOST_PHASES}; cut the cine into parts")
    if volume.region[3] > LADDER_GAIN:
        raise ValueError(f"the gain of the region is {volume.region[3]}, expected at most {LADDER_GAIN}")


def _check_size(rank: int, height: int, width: int) -> None:
    if rank > MOST_RANK or rank * height * width > MOST_SYMBOLS:
        raise ValueError(
            f"{rank} components of {height} x {width} pixels: expected at most {MOST_RANK} components and "
            f"{MOST_SYMBOLS} symbols a slice; crop the cine"
        )


def _rank(energies: np.ndarray) -> int:
    """Components up to the last one that has symbols."""
    busy = np.flatnonzero(energies.any(0))
    return int(busy[-1]) + 1 if busy.size else 0


def _code_energies(energies: np.ndarray | None, rank: int, bands: int, coder: Any) -> np.ndarray:
    """Code energy classes component by component; a class is predicted by that of the component before.

    The first component is predicted by its band before. Frequencies adapt to what was coded.
    """
    result = np.zeros((bands, rank), np.int64)
    places = np.arange(ENERGIES)
    counts = 1 + 48 // (1 + 2 * (places[:, None] - places) ** 2)
    for component in range(rank):
        for band in range(bands):
            before = result[band, component - 1] if component else result[band - 1, 0] if band else ENERGIES - 1
            model = _table(counts[before])
            if energies is None:
                value = int(coder.decode(model, 1)[0])
            else:
                value = int(energies[band, component])
                coder.encode(np.array([value], np.int32), model)
            counts[before, value] += 32
            result[band, component] = value
    return result


def _basis_model(phases: int) -> Any:
    """The model of an entry of the basis: a bell whose width follows from unit columns of T entries."""
    values = np.arange(LADDER_BASIS) - LADDER_BASIS // 2
    variance = max(1, 2 * (LADDER_BASIS // 2) ** 2 // phases)
    return _table((1 << 20) * variance**2 // (variance + values**2) ** 2 + 16)


def _table(counts: np.ndarray) -> Any:
    """A model from counts; its frequencies are integers that sum to 2^TABLE_BITS."""
    counts = counts.astype(np.int64)
    scaled = 1 + counts * ((1 << TABLE_BITS) - len(counts)) // counts.sum()
    scaled[int(np.argmax(scaled))] += (1 << TABLE_BITS) - scaled.sum()
    return categorical(scaled, TABLE_BITS)
