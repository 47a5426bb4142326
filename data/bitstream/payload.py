"""The tokens of one cine as bits, field by field of their layout (utils/layout.py).

Ids have a fixed width. A token of -1 (not transmitted) costs nothing where all tokens of a field are transmitted, or
none, or in every block the same first ones; otherwise two bits a block say whether it is absent, whole or partial; see
bits.py. The phases of ED and ES are written once where all slices agree, otherwise for each slice.
"""

from __future__ import annotations

import numpy as np

from data.bitstream.bits import BitReader, blocks_to_bits, presence_of, take_blocks, to_bits
from utils.layout import TokenLayout, check_range


def tokens_to_bits(layout: TokenLayout, tokens: np.ndarray, slices: int, phases: int) -> tuple[int, list[np.ndarray]]:
    """Tokens as bits.

    Args:
        layout: of the tokens.
        tokens: integers of the layout's shape.
        slices: D.
        phases: T.

    Returns:
        States, one bit an index field and two bits a token field, the first field lowest; and pieces of flat uint8
        zeros and ones.

    Raises:
        ValueError: for tokens that are not of this layout.
    """
    if tokens.shape != layout.shape(slices, phases):
        raise ValueError(
            f"tokens are of shape {tokens.shape}, expected integers of shape {layout.shape(slices, phases)}: "
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
    """The inverse of `tokens_to_bits`, int64.

    Raises:
        ValueError: where the bytes end before, or an id lies outside its codebook.
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
