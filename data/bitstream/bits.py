"""Token ids as bits of fixed width, and the marks of ids that are not transmitted (-1)."""

from __future__ import annotations

import numpy as np

NONE, ALL, MIXED = 0, 1, 2  # no, all or some ids of a field, or of one block of a field, are transmitted
PREFIX = 3  # every block of a field transmits only its first n ids, with one n for all blocks
PREFIX_WIDTH = 16  # bits of n
CHUNK = 1 << 16  # values at a time, so that memory stays near that of the result


def id_width(codebook_size: int) -> int:
    """Return the bits of an id: ceil(log2(codebook_size))."""
    return max(0, codebook_size - 1).bit_length()


def presence_of(blocks: np.ndarray) -> int:
    """Return which ids of blocks are transmitted.

    Args:
        blocks: (count, length) integers, -1 if not transmitted.

    Returns:
        NONE, ALL, PREFIX or MIXED; ALL if there are no ids.
    """
    transmitted = blocks >= 0
    if transmitted.all():
        return ALL
    if not transmitted.any():
        return NONE
    count = int(transmitted[0].sum())
    return PREFIX if transmitted[:, :count].all() and not transmitted[:, count:].any() else MIXED


def to_bits(values: np.ndarray, width: int) -> np.ndarray:
    """Write non-negative integers as `width` bits each, most significant bit first.

    Args:
        values: integers from 0 to 2**width - 1, any shape.
        width: bits of each integer.

    Returns:
        (values.size * width,) uint8 zeros and ones, for `numpy.packbits`.
    """
    flat, shifts = values.reshape(-1), np.arange(width - 1, -1, -1)
    parts = [((flat[i : i + CHUNK, None] >> shifts) & 1).astype(np.uint8).ravel() for i in range(0, len(flat), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


class BitReader:
    """Read integers of fixed width from bytes, in sequence.

    Args:
        data: the bytes.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self.position = 0

    def rest(self) -> bytes:
        """The bytes after the last one of which a bit was taken."""
        return self.data[-(-self.position // 8) :]

    def take(self, count: int, width: int) -> np.ndarray:
        """Read the next integers.

        Args:
            count: number of integers.
            width: bits of each integer.

        Returns:
            (count,) int64.

        Raises:
            ValueError: when the bytes end too early.
        """
        end = self.position + count * width
        if end > self.bits.size:
            raise ValueError(
                f"the compressed file is damaged: it has {self.bits.size} payload bits, expected at least {end}"
            )
        bits, weights = self.bits[self.position : end].reshape(count, width), 1 << np.arange(width - 1, -1, -1)
        self.position = end
        values = np.zeros(count, np.int64)
        for first in range(0, count, CHUNK):
            values[first : first + CHUNK] = bits[first : first + CHUNK].astype(np.int64) @ weights
        return values


def blocks_to_bits(blocks: np.ndarray, codebook_size: int) -> list[np.ndarray]:
    """Write blocks of ids as bits, without their presence (`presence_of`), which is stored separately.

    For PREFIX, n is written once. For MIXED, each block has two bits for NONE, ALL or MIXED, and each id of a MIXED
    block has one bit.

    Args:
        blocks: (count, length) integers in [-1, codebook_size).
        codebook_size: number of ids; it defines the bits of an id.

    Returns:
        List of flat uint8 arrays of zeros and ones.
    """
    transmitted = blocks >= 0
    ids = to_bits(blocks[transmitted], id_width(codebook_size))
    presence = presence_of(blocks)
    if presence == PREFIX:
        return [to_bits(np.array(transmitted[0].sum()), PREFIX_WIDTH), ids]
    if presence != MIXED:
        return [ids]
    state = np.where(transmitted.all(axis=1), ALL, np.where(transmitted.any(axis=1), MIXED, NONE))
    return [to_bits(state, 2), transmitted[state == MIXED].ravel().astype(np.uint8), ids]


def take_blocks(reader: BitReader, shape: tuple[int, int], codebook_size: int, presence: int) -> np.ndarray:
    """Read blocks of ids, the inverse of `blocks_to_bits`.

    Args:
        reader: at the first bit of the blocks.
        shape: (count, length) of the blocks.
        codebook_size: number of ids, as for writing.
        presence: NONE, ALL, PREFIX or MIXED, from `presence_of`.

    Returns:
        (count, length) int64, -1 if not transmitted.

    Raises:
        ValueError: when the bytes end too early.
    """
    transmitted = np.full(shape, presence == ALL)
    if presence == PREFIX:
        transmitted[:, : int(reader.take(1, PREFIX_WIDTH)[0])] = True
    if presence == MIXED:
        state = reader.take(shape[0], 2)
        transmitted[state == ALL] = True
        partial = state == MIXED
        transmitted[partial] = reader.take(int(partial.sum()) * shape[1], 1).reshape(-1, shape[1]).astype(bool)
    blocks = np.full(shape, -1, np.int64)
    blocks[transmitted] = reader.take(int(transmitted.sum()), id_width(codebook_size))
    return blocks
