"""The tokens of one cine as bits, layout by layout.

    frame       ED and ES indices, once or a slice each; K ids a frame; A ids a key frame
    sequence    N ids

Ids have a fixed width. A token of -1 ("not sent") costs nothing where of a kind all are sent, or none, or in every
block the same first ones; otherwise two bits a block say whether it is absent, whole or partial; see bits.py.

Axes: D slices, T phases, K latent tokens a frame, A anatomy tokens a key frame, N tokens of a whole cine.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from data.bitstream.bits import BitReader, blocks_to_bits, presence_of, take_blocks, to_bits


class Sizes(NamedTuple):
    """What the payload's shape follows from; see data/bitstream/container.py's `Header`."""

    slices: int
    phases: int
    num_latent_tokens: int
    num_anatomy_tokens: int
    codebook_size: int
    anatomy_codebook_size: int


class Layout(Protocol):
    """How tokens lie in an array, and in bits."""

    def count(self, sizes: Sizes) -> int:
        """How many tokens there are, sent or not."""

    def to_bits(self, tokens: np.ndarray, sizes: Sizes) -> tuple[int, list[np.ndarray]]:
        """States, five bits, and pieces of flat uint8 zeros and ones; ValueError for tokens of other sizes."""

    def from_bits(self, reader: BitReader, sizes: Sizes, states: int) -> np.ndarray:
        """The inverse; ValueError where the bytes end before, or an id lies outside its codebook."""


class FramePayload:
    """(D, 2 + T*K + 2*A): the indices of ED and ES, K ids a phase, A of ED and A of ES."""

    def count(self, sizes: Sizes) -> int:
        """D rows."""
        return sizes.slices * self.row(sizes)

    def row(self, sizes: Sizes) -> int:
        """Tokens a slice."""
        return 2 + sizes.phases * sizes.num_latent_tokens + 2 * sizes.num_anatomy_tokens

    def to_bits(self, tokens: np.ndarray, sizes: Sizes) -> tuple[int, list[np.ndarray]]:
        """See `Layout`; the states are indices a slice each (1), presence of frames (2), of anatomy (2)."""
        check_shape(tokens, (sizes.slices, self.row(sizes)), "(D, 2 + T*K + 2*A)")
        last = 2 + sizes.phases * sizes.num_latent_tokens
        indices, frames, anatomy = np.split(tokens.astype(np.int64), [2, last], axis=1)
        frames = frames.reshape(-1, sizes.num_latent_tokens)
        anatomy = anatomy.reshape(sizes.slices * 2, sizes.num_anatomy_tokens)
        check_ids("ED/ES index", indices, sizes.phases)
        check_ids("latent token", frames, sizes.codebook_size)
        check_ids("anatomy token", anatomy, sizes.anatomy_codebook_size)
        per_slice = bool((indices != indices[0]).any())
        bits = [to_bits((indices if per_slice else indices[:1]) + 1, sizes.phases.bit_length())]
        bits += blocks_to_bits(frames, sizes.codebook_size) + blocks_to_bits(anatomy, sizes.anatomy_codebook_size)
        return per_slice | presence_of(frames) << 1 | presence_of(anatomy) << 3, bits

    def from_bits(self, reader: BitReader, sizes: Sizes, states: int) -> np.ndarray:
        """See `Layout`."""
        rows = sizes.slices if states & 1 else 1
        indices = reader.take(rows * 2, sizes.phases.bit_length()).reshape(rows, 2) - 1
        parts = [np.broadcast_to(indices, (sizes.slices, 2))]
        for count, width, size, presence in (
            (sizes.slices * sizes.phases, sizes.num_latent_tokens, sizes.codebook_size, states >> 1 & 3),
            (sizes.slices * 2, sizes.num_anatomy_tokens, sizes.anatomy_codebook_size, states >> 3 & 3),
        ):
            blocks = take_blocks(reader, (count, width), size, presence)
            check_ids("token", blocks, size)
            parts.append(blocks.reshape(sizes.slices, -1))
        check_ids("ED/ES index", indices, sizes.phases)
        return np.concatenate(parts, axis=1)


class SequencePayload:
    """(N,) ids of a whole cine."""

    def count(self, sizes: Sizes) -> int:
        """N."""
        return sizes.num_latent_tokens

    def to_bits(self, tokens: np.ndarray, sizes: Sizes) -> tuple[int, list[np.ndarray]]:
        """See `Layout`; the state is the presence of ids."""
        check_shape(tokens, (sizes.num_latent_tokens,), "(N,)")
        block = tokens.astype(np.int64)[None]
        check_ids("token", block, sizes.codebook_size)
        return presence_of(block), blocks_to_bits(block, sizes.codebook_size)

    def from_bits(self, reader: BitReader, sizes: Sizes, states: int) -> np.ndarray:
        """See `Layout`."""
        block = take_blocks(reader, (1, sizes.num_latent_tokens), sizes.codebook_size, states & 3)
        check_ids("token", block, sizes.codebook_size)
        return block[0]


LAYOUTS: dict[str, Layout] = {"frame": FramePayload(), "sequence": SequencePayload()}  # their order is in the file


def check_shape(tokens: np.ndarray, shape: tuple[int, ...], words: str) -> None:
    """Raise ValueError unless tokens are integers of a shape."""
    if tokens.dtype.kind not in "iu" or tokens.shape != shape:
        raise ValueError(
            f"tokens are {tokens.dtype} of shape {tokens.shape}, expected integers of shape {shape}: {words}"
        )


def check_ids(name: str, ids: np.ndarray, size: int) -> None:
    """Raise ValueError for an id that is neither -1 nor in [0, size)."""
    if ids.size and (ids.min() < -1 or ids.max() >= size):
        wrong = ids[(ids < -1) | (ids >= size)][0]
        raise ValueError(
            f"{name} {wrong} is outside [0, {size}) and not -1; tokens and header belong to different models"
        )
