"""The tokens of one cine as bits, in the order of the fields of their layout (utils/layout.py).

Ids have a fixed width. A token that is not transmitted (-1) needs no bits if all tokens of a field are transmitted, or
none, or only the first n of every block. Otherwise two bits per block mark it as empty, complete or partial; see
bits.py. The phases of ED and ES are written once if they are equal in all slices, otherwise for each slice.
"""

from __future__ import annotations

import numpy as np

from data.bitstream.bits import BitReader, blocks_to_bits, presence_of, take_blocks, to_bits
from utils.layout import TokenLayout, check_range


def tokens_to_bits(layout: TokenLayout, tokens: np.ndarray, slices: int, phases: int) -> tuple[int, list[np.ndarray]]:
    """Write tokens as bits.

    Args:
        layout: layout of the tokens.
        tokens: integers of the shape of the layout, -1 if not transmitted.
        slices: D.
        phases: T.

    Returns:
        The states of all fields (one bit per index field, two bits per token field, the first field in the lowest
        bits), and a list of flat uint8 arrays of zeros and ones.

    Raises:
        ValueError: for tokens that do not match the layout.
    """
    if tokens.shape != layout.shape(slices, phases):
        raise ValueError(
            f"tokens have shape {tokens.shape}, expected integers of shape {layout.shape(slices, phases)}: "
            f"{layout.words}"
        )
    layout.check(tokens, slices, phases)
    parts, states, shift, bits = layout.split(tokens.astype(np.int64), slices, phases), 0, 0, []
    for field in layout.fields(slices, phases):
        values = parts[field.name]
        if field.is_index:
            per_slice = bool((values != values[:1]).any())
            bits.append(to_bits((values if per_slice else values[:1]) + 1, field.bits))
            states |= per_slice << shift
            shift += 1
        else:
            blocks = values.reshape(field.block_shape)
            bits += blocks_to_bits(blocks, field.size)
            states |= presence_of(blocks) << shift
            shift += 2
    return states, bits


def tokens_from_bits(layout: TokenLayout, reader: BitReader, slices: int, phases: int, states: int) -> np.ndarray:
    """Read tokens from bits, the inverse of `tokens_to_bits`.

    Args:
        layout: layout of the tokens.
        reader: at the first bit of the payload.
        slices: D.
        phases: T.
        states: from `tokens_to_bits`.

    Returns:
        int64 of the shape of the layout, -1 if not transmitted.

    Raises:
        ValueError: when the bytes end too early, or an id is outside its codebook.
    """
    parts = {}
    for field in layout.fields(slices, phases):
        if field.is_index:
            rows = field.shape[0] if states & 1 else 1
            values = reader.take(rows * field.shape[1], field.bits).reshape(rows, -1) - 1
            values = np.broadcast_to(values, field.shape)
            states >>= 1
        else:
            values = take_blocks(reader, field.block_shape, field.size, states & 3).reshape(field.shape)
            states >>= 2
        check_range(values, field)
        parts[field.name] = values
    return layout.join(parts)
