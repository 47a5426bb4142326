"""The tokens of one cine as bytes, field by field of their layout (utils/layout.py); a ladder has ladder.py instead.

    bits      phases of ED and ES, presence of tokens, ids of fixed width; padded with zeros to a whole byte
    code      ids of all frames by the range coder (entropy.py), where that is shorter than fixed width

Ids have a fixed width unless they are coded. A token of -1 (not transmitted) costs nothing where all tokens of a field
are transmitted, or none, or in every block the same first ones; otherwise two bits a block say whether it is absent,
whole or partial; see bits.py. The phases of ED and ES are written once where all slices agree, else for each slice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.bitstream import entropy
from data.bitstream.bits import (
    ALL,
    PREFIX,
    PREFIX_WIDTH,
    BitReader,
    blocks_to_bits,
    presence_of,
    take_blocks,
    to_bits,
)
from data.bitstream.entropy import TokenTable
from utils.layout import Field, TokenLayout, check_range

FIXED, REPEATS, TABLE, REPEATS_TABLE = range(4)  # how the ids of frames are written
CODINGS = {
    FIXED: "fixed width",
    REPEATS: "repeats of the previous phase, other ids uniform",
    TABLE: "the model's table of frequencies",
    REPEATS_TABLE: "repeats of the previous phase, other ids by the model's table of frequencies",
}


class Payload(NamedTuple):
    """Tokens as bytes.

    Args:
        states: one bit an index field and two bits a token field, the first field lowest.
        coding: one of CODINGS.
        data: the bytes.
    """

    states: int
    coding: int
    data: bytes


def needs_table(coding: int) -> bool:
    """Whether a coding uses the model's table of frequencies."""
    return coding in (TABLE, REPEATS_TABLE)


def write_payload(
    layout: TokenLayout, tokens: np.ndarray, slices: int, phases: int, table: TokenTable | None = None
) -> Payload:
    """The shortest payload of some tokens; of equally short ones that of the lowest coding.

    Args:
        layout: layout of the tokens.
        tokens: integers of the shape of the layout, -1 if not transmitted.
        slices: D.
        phases: T.
        table: of the model's frame tokens, where it has one.

    Raises:
        ValueError: for tokens that do not match the layout.
    """
    if tokens.shape != layout.shape(slices, phases):
        raise ValueError(
            f"tokens have shape {tokens.shape}, expected integers of shape {layout.shape(slices, phases)}: "
            f"{layout.words}"
        )
    layout.check(tokens, slices, phases)
    parts = layout.split(tokens.astype(np.int64), slices, phases)
    fields = layout.fields(slices, phases)
    codings = [FIXED]
    if any(_is_coded(field, presence_of(parts[field.name].reshape(field.block_shape))) for field in fields):
        codings += [REPEATS] if table is None else [REPEATS, TABLE, REPEATS_TABLE]
    payloads = [_write(fields, parts, coding, table) for coding in codings]
    return min(payloads, key=lambda payload: (len(payload.data) + 4 * needs_table(payload.coding), payload.coding))


def _is_coded(field: Field, presence: int) -> bool:
    """Whether the range coder takes a field: ids of all frames, of which all or equally many are transmitted."""
    is_codebook = entropy.MIN_CODES <= field.size <= entropy.MAX_CODES
    return "phase" in field.axes and is_codebook and field.shape[-1] > 0 and presence in (ALL, PREFIX)


def _id_model(size: int, coding: int, table: TokenTable | None) -> object:
    if not needs_table(coding):
        return entropy.uniform(size)
    if table is None or len(table.frequencies) != size:
        raise ValueError("the ids are coded with the table of another model; give the model that wrote the file")
    return table.model()


def _write(fields: tuple[Field, ...], parts: dict[str, np.ndarray], coding: int, table: TokenTable | None) -> Payload:
    states, shift, bits, code = 0, 0, [], b""
    for field in fields:
        values = parts[field.name]
        if field.is_index:
            per_slice = bool((values != values[:1]).any())
            bits.append(to_bits((values if per_slice else values[:1]) + 1, field.bits))
            states |= per_slice << shift
            shift += 1
            continue
        blocks = values.reshape(field.block_shape)
        presence = presence_of(blocks)
        states |= presence << shift
        shift += 2
        if coding != FIXED and _is_coded(field, presence):
            count = int((blocks[0] >= 0).sum())
            bits += [to_bits(np.array(count), PREFIX_WIDTH)] if presence == PREFIX else []
            by_phase = coding in (REPEATS, REPEATS_TABLE)
            code = entropy.encode(values[..., :count], _id_model(field.size, coding, table), by_phase)
        else:
            bits += blocks_to_bits(blocks, field.size)
    return Payload(states, coding, np.packbits(np.concatenate(bits)).tobytes() + code)


def read_payload(
    layout: TokenLayout, payload: Payload, slices: int, phases: int, table: TokenTable | None = None
) -> np.ndarray:
    """The inverse of `write_payload`, int64.

    Raises:
        ValueError: where the bytes end before, an id lies outside its codebook, or the table is missing.
    """
    reader, states, parts, coded = BitReader(payload.data), payload.states, {}, None
    for field in layout.fields(slices, phases):
        if field.is_index:
            rows = field.shape[0] if states & 1 else 1
            values = reader.take(rows * field.shape[1], field.bits).reshape(rows, -1) - 1
            values = np.broadcast_to(values, field.shape)
            states >>= 1
        elif payload.coding != FIXED and _is_coded(field, states & 3):
            count = int(reader.take(1, PREFIX_WIDTH)[0]) if states & 3 == PREFIX else field.shape[-1]
            if not 0 < count <= field.shape[-1]:
                raise ValueError(f"the compressed file is damaged: {count} of {field.shape[-1]} tokens a frame")
            values, coded = np.full(field.shape, -1, np.int64), (field, count)
            states >>= 2
        else:
            values = take_blocks(reader, field.block_shape, field.size, states & 3).reshape(field.shape)
            states >>= 2
        check_range(values, field)
        parts[field.name] = values
    if coded is not None:
        field, count = coded
        by_phase = payload.coding in (REPEATS, REPEATS_TABLE)
        shape = (*field.shape[:-1], count)
        model = _id_model(field.size, payload.coding, table)
        parts[field.name][..., :count] = entropy.decode(reader.rest(), shape, model, by_phase)
    return layout.join(parts)


def budget(layout: TokenLayout, payload: Payload, slices: int, phases: int) -> dict[str, int]:
    """Bits of each field of a payload, of the range coder's code and of the padding; the ids are not decoded.

    Raises:
        ValueError: where the bytes end before.
    """
    reader, states, bits = BitReader(payload.data), payload.states, {}
    for field in layout.fields(slices, phases):
        first = reader.position
        if field.is_index:
            reader.take((field.shape[0] if states & 1 else 1) * field.shape[1], field.bits)
            states >>= 1
        else:
            if payload.coding != FIXED and _is_coded(field, states & 3):
                reader.take(1 if states & 3 == PREFIX else 0, PREFIX_WIDTH)
            else:
                take_blocks(reader, field.block_shape, field.size, states & 3)
            states >>= 2
        bits[field.name] = reader.position - first
    code = 8 * len(reader.rest())
    padding = 8 * len(payload.data) - code - reader.position
    return {**bits, "range coder": code, "padding": padding}
