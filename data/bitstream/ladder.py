"""Tokens of the layout `ladder` as bytes: what belongs to the volume, then one code for each slice.

    H W R step · region · base tokens · energy classes and temporal basis (range coder) · checksum
    length and checksum of each slice · codes of the slices

The context model of the ladder predicts the decisions that make up the residual ids, see decisions.py and
modeling/ladder. Each slice has a code of its own, which can be decoded without the others. docs/format.md describes it
byte by byte.

Axes: D slices, T phases, R components, H and W of the coded field.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from data.bitstream.decisions import Decoder, Encoder, code_symbols
from data.bitstream.entropy import REFUSED
from data.bitstream.ladder_volume import DAMAGED, Volume, read_volume, write_volume
from utils.ladder.symbols import from_residual_ids, residual_ids
from utils.layout import LadderLayout

_SLICE = struct.Struct("<IH")  # length and checksum
Bands = list[list[np.ndarray]]


class Walk(Protocol):
    """A walk over the symbols of slices in coding order, `Session` of modeling/ladder."""

    symbols: Bands

    @property
    def frequencies(self) -> np.ndarray: ...

    def sites(self) -> Iterator[Any]: ...

    def logits(self, site: Any) -> np.ndarray: ...

    def take(self, site: Any, symbols: Bands) -> np.ndarray: ...

    def add(self, site: Any, symbols: np.ndarray) -> None: ...


class SymbolModel(Protocol):
    """The context model of a ladder."""

    def energies(self, symbols: Bands) -> np.ndarray:
        """Energy class of each band of each component, (bands, R), of symbols (D, R, h, w) a band."""

    def walk(self, size: tuple[int, int], slices: int, step_index: int, energies: np.ndarray) -> Walk:
        """Begin to code or to decode slices of size (H, W)."""


def write(
    layout: LadderLayout, tokens: np.ndarray, phases: int, model: SymbolModel, size: tuple[int, int] | None = None
) -> bytes:
    """Write tokens as bytes.

    Args:
        layout: of the model.
        tokens: (D, row) integers.
        phases: T.
        model: the context model.
        size: (H, W) that the header of the file has; None for any.

    Raises:
        ValueError: for tokens that do not match the layout.
    """
    sized = layout.of(tokens)
    if size is not None and (sized.height, sized.width) != size:
        raise ValueError(f"tokens of {sized.height} x {sized.width} pixels, but the header has {size[0]} x {size[1]}")
    sized.check(tokens, len(tokens), phases)
    parts = sized.split(tokens.astype(np.int64), len(tokens), phases)
    if any((parts[name] != parts[name][:1]).any() for name in ("step", "region", "base", "basis")):
        raise ValueError(
            "the rows of the tokens belong to different volumes: expected one step, region, base and basis"
        )
    symbols = from_residual_ids(parts["residual"], sized.height, sized.width)
    first = {name: part[0] for name, part in parts.items()}
    volume = Volume(
        sized, int(first["step"][0]), first["region"], first["base"], model.energies(symbols), first["basis"]
    )
    if (_ids_of(symbols, volume) != parts["residual"]).any():
        raise ValueError("the residual ids are -1 elsewhere than in bands of zeros: encode the cine again")
    head, codes = write_volume(volume), code_slices(volume, symbols, model)
    table = b"".join(_SLICE.pack(len(code), zlib.crc32(code) & 0xFFFF) for code in codes)
    return head + table + b"".join(codes)


def code_slices(volume: Volume, symbols: Bands, model: SymbolModel) -> list[bytes]:
    """Return the code of each slice."""
    slices = len(symbols[0][0])
    walk = model.walk((volume.layout.height, volume.layout.width), slices, volume.step_index, volume.energies)
    coders = [Encoder(walk.frequencies) for _ in range(slices)]
    for site in walk.sites():
        logits, own = walk.logits(site), walk.take(site, symbols)
        for coder, *given in zip(coders, logits, own, strict=True):
            code_symbols(coder, *given)
        walk.add(site, own)
    return [coder.code() for coder in coders]


def read(
    layout: LadderLayout,
    data: bytes,
    slices: int,
    phases: int,
    model: SymbolModel,
    damaged: list[int] | None = None,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Read tokens, the inverse of `write`.

    Args:
        layout: of the model.
        data: the bytes.
        slices: D.
        phases: T.
        model: the context model.
        damaged: filled with the slices that cannot be decoded, whose residual ids are those of zeros; None refuses a
            file with damaged slices.
        size: (H, W) that the header of the file has; None for any.

    Returns:
        (D, row) int64.

    Raises:
        ValueError: for bytes that are damaged, or not canonical.
    """
    volume, start = read_volume(layout, data, phases, size)
    sized = volume.layout
    codes, bad = slice_codes(data, start, slices, whole=damaged is None)
    if bad and damaged is None:
        raise ValueError(f"{DAMAGED}: slice(s) {', '.join(map(str, bad))}; decode the others with --partial")
    good = [z for z in range(slices) if z not in bad]
    residual = np.zeros((slices, sized.rank, sized.height * sized.width), np.int64)
    if good:
        symbols, wrong = read_slices(volume, [codes[z] for z in good], model)
        if wrong and damaged is None:
            raise ValueError(f"{DAMAGED}: the code of slice {good[wrong[0]]} is not valid")
        bad += [good[index] for index in wrong]
        residual[good] = _ids_of(symbols, volume)
        if not bad and (model.energies(symbols) != volume.energies).any():
            raise ValueError("the compressed file is not canonical: its energy classes are not those of its symbols")
    else:
        raise ValueError(f"{DAMAGED}: no slice can be decoded")
    residual[bad] = _ids_of([[np.zeros_like(band[:1]) for band in level] for level in symbols], volume)
    if damaged is not None:
        damaged += sorted(bad)
    parts = {"step": np.full((slices, 1), volume.step_index), "region": np.tile(volume.region, (slices, 1)),
             "base": np.tile(volume.base, (slices, 1)),
             "basis": np.tile(volume.basis, (slices, 1, 1)), "residual": residual}  # fmt: skip
    tokens = sized.join(parts)
    sized.check(tokens, slices, phases)
    return tokens


def slice_codes(data: bytes, start: int, slices: int, whole: bool = True) -> tuple[list[bytes], list[int]]:
    """Return the code of each slice, and the slices whose checksum is wrong.

    Raises:
        ValueError: when bytes are missing; unless `whole`, only when those of the table of slices are.
    """
    if len(data) < start + slices * _SLICE.size:
        raise ValueError(f"{DAMAGED}: {len(data)} bytes of tokens, expected at least {start + slices * _SLICE.size}")
    table = [_SLICE.unpack_from(data, start + z * _SLICE.size) for z in range(slices)]
    at, codes = start + slices * _SLICE.size, []
    for length, _ in table:
        codes.append(data[at : at + length])
        at += length
    if whole and at != len(data):
        raise ValueError(f"{DAMAGED}: {len(data)} bytes of tokens, expected {at}")
    return codes, [z for z, (code, row) in enumerate(zip(codes, table, strict=True))
                   if len(code) != row[0] or zlib.crc32(code) & 0xFFFF != row[1]]  # fmt: skip


def read_slices(volume: Volume, codes: Sequence[bytes], model: SymbolModel) -> tuple[Bands, list[int]]:
    """Decode slices; also return the indices of those whose code is not valid."""
    size = (volume.layout.height, volume.layout.width)
    walk = model.walk(size, len(codes), volume.step_index, volume.energies)
    coders, wrong = [Decoder(code, walk.frequencies) for code in codes], set()
    for site in walk.sites():
        logits = walk.logits(site)
        symbols = np.zeros(logits.shape[:2], np.int32)
        for index, coder in enumerate(coders):
            if index in wrong:
                continue
            try:
                symbols[index] = code_symbols(coder, logits[index], None)
            except REFUSED:
                wrong.add(index)
        walk.add(site, symbols)
    wrong |= {index for index, coder in enumerate(coders) if index not in wrong and coder.code() != codes[index]}
    return walk.symbols, sorted(wrong)


def _ids_of(symbols: Bands, volume: Volume) -> np.ndarray:
    return residual_ids([band for level in symbols for band in level], volume.energies > 0)


def budget(layout: LadderLayout, data: bytes, slices: int, phases: int) -> dict[str, int]:
    """Bits of what belongs to all slices, of the table of slices and of their codes; the codes are not decoded."""
    _, start = read_volume(layout, data, phases)
    codes, _ = slice_codes(data, start, slices)
    table = 8 * slices * _SLICE.size
    return {"volume": 8 * start, "table of slices": table, "slices": 8 * sum(map(len, codes)), "padding": 0}
