"""Token ids as bits of fixed width, and how ids that are not transmitted (-1) are marked."""

from __future__ import annotations

import numpy as np

NONE, ALL, MIXED = 0, 1, 2  # how many ids are transmitted: of a field, or of one block of it
PREFIX = 3  # of a field: every block transmits equally many ids, the first
PREFIX_WIDTH = 16
CHUNK = 1 << 16  # values at a time, so that memory stays near that of the result


def id_width(codebook_size: int) -> int:
    """Bits of an id: ceil(log2(codebook_size))."""
    return max(0, codebook_size - 1).bit_length()


def presence_of(blocks: np.ndarray) -> int:
    """Which ids of blocks (count, length) are transmitted: NONE, ALL, PREFIX or MIXED; ALL where there are no ids."""
    transmitted = blocks >= 0
    if transmitted.all():
        return ALL
    if not transmitted.any():
        return NONE
    count = int(transmitted[0].sum())
    return PREFIX if transmitted[:, :count].all() and not transmitted[:, count:].any() else MIXED


def to_bits(values: np.ndarray, width: int) -> np.ndarray:
    """Non-negative integers as `width` bits each, most significant first.

    Args:
        values: integers below 2**width, any shape.
        width: bits of each.

    Returns:
        Flat uint8 of zeros and ones, for `numpy.packbits`.
    """
    flat, shifts = values.reshape(-1), np.arange(width - 1, -1, -1)
    parts = [((flat[i : i + CHUNK, None] >> shifts) & 1).astype(np.uint8).ravel() for i in range(0, len(flat), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint8)


class BitReader:
    """Takes fixed-width integers off the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self.position = 0

    def rest(self) -> bytes:
        """The bytes after the last one of which a bit was taken."""
        return self.data[-(-self.position // 8) :]

    def take(self, count: int, width: int) -> np.ndarray:
        """The next integers.

        Args:
            count: how many.
            width: bits of each.

        Returns:
            (count,) int64.

        Raises:
            ValueError: the bytes end before.
        """
        end = self.position + count * width
        if end > self.bits.size:
            raise ValueError(f"the compressed file is damaged: it holds {self.bits.size} payload bits, expected {end}")
        bits, weights = self.bits[self.position : end].reshape(count, width), 1 << np.arange(width - 1, -1, -1)
        self.position = end
        values = np.zeros(count, np.int64)
        for first in range(0, count, CHUNK):
            values[first : first + CHUNK] = bits[first : first + CHUNK].astype(np.int64) @ weights
        return values


def blocks_to_bits(blocks: np.ndarray, codebook_size: int) -> list[np.ndarray]:
    """Blocks of ids as bits; whether all, none or some are transmitted (`presence_of`) has to be stored beside them.

    Args:
        blocks: (count, length) integers in [-1, codebook_size). A PREFIX has its length written once; MIXED has two
            bits a block that say NONE, ALL or MIXED, and of a MIXED block one bit an id.
        codebook_size: sets the width of an id.

    Returns:
        Pieces of flat uint8 zeros and ones.
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
    """The inverse of `blocks_to_bits`.

    Args:
        reader: stands at the first bit of the blocks.
        shape: (count, length) of the blocks.
        codebook_size: as written.
        presence: of all the blocks: NONE, ALL, PREFIX or MIXED.

    Returns:
        `shape` int64, -1 where not transmitted.

    Raises:
        ValueError: the bytes end before.
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
