"""Entropy coding of token ids by a range coder with integer tables.

    repeats   a token of a frame is first compared with the token at its place in the previous phase: a flag says
              whether it repeats, with a probability that adapts to earlier flags; ids that do not repeat come next
    ids       uniform, or by a table of frequencies that belongs to the model (`TokenTable`)

All probabilities are integers over a power of two, so that every machine computes the same code. Tokens are coded phase
by phase: flags of all slices, then their ids. The coder is constriction's range coder with `Categorical` models.

Source: Martin, Range encoding, 1979; Bamler, Understanding Entropy Coding With Asymmetric Numeral Systems, 2022
(constriction).
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import constriction
import numpy as np

PRECISION = 16  # bits of a flag's probability
TABLE_PRECISION = 22  # bits of a table of frequencies
MIN_CODES, MAX_CODES = 2, 1 << 16  # other codebooks are packed at fixed width
QUEUE = constriction.stream.queue
CATEGORICAL = constriction.stream.model.Categorical
REFUSED = (ValueError, AssertionError, OverflowError, TypeError)


class TokenTable:
    """Frequencies of a model's token ids, an integer each, which sum to 2**22.

    Args:
        counts: (codebook_size,) how often each id was seen in training; every id keeps a frequency of at least 1.

    Raises:
        ValueError: for counts that are no list of 2 to 65536 non-negative integers.
    """

    def __init__(self, counts: Any) -> None:
        values = np.asarray(counts)
        if (
            values.ndim != 1
            or not MIN_CODES <= values.size <= MAX_CODES
            or values.dtype.kind not in "iu"
            or values.min() < 0
        ):
            raise ValueError(
                f"token counts have shape {values.shape} of {values.dtype}, expected integers of 0 or more"
            )
        total = int(values.sum(dtype=object))
        free = (1 << TABLE_PRECISION) - values.size
        shares = [int(count) * free // max(total, 1) for count in values]
        frequencies = 1 + np.array(shares, np.int64)
        frequencies[int(np.argmax(frequencies))] += (1 << TABLE_PRECISION) - int(frequencies.sum())
        self.frequencies = frequencies
        self.crc = zlib.crc32(frequencies.astype("<i8").tobytes())

    def model(self) -> Any:
        """The model of one id."""
        return categorical(self.frequencies, TABLE_PRECISION)


def uniform(size: int) -> Any:
    """The model of one id whose table is even."""
    return TokenTable(np.ones(size, np.int64)).model()


def categorical(frequencies: np.ndarray, precision: int) -> Any:
    """A model from integer frequencies that sum to 2**precision; each is exact as a float."""
    return CATEGORICAL(frequencies / float(1 << precision), perfect=False)


class Flags(NamedTuple):
    """How often tokens repeated so far, at each of K places: (K,) counts of repeats and of all."""

    repeats: np.ndarray
    total: np.ndarray

    def probabilities(self, slices: int) -> np.ndarray:
        """(slices * K, 2) probabilities of a change and of a repeat, exact multiples of 2**-16."""
        scale = 1 << PRECISION
        repeat = ((self.repeats + 1) * scale // (self.total + 2)).clip(1, scale - 1)
        pairs = np.stack([scale - repeat, repeat], axis=1) / float(scale)
        return np.tile(pairs, (slices, 1))

    def update(self, flags: np.ndarray) -> Flags:  # (slices, K) bool
        """The counts after another phase."""
        return Flags(self.repeats + flags.sum(0), self.total + len(flags))


def encode(ids: np.ndarray, id_model: Any, by_phase: bool) -> bytes:
    """Ids as bytes.

    Args:
        ids: (D, T, K) of frames, all transmitted, or any shape where `by_phase` is False.
        id_model: of one id, from `uniform` or `TokenTable.model`.
        by_phase: whether ids are compared with those of the previous phase.
    """
    coder = QUEUE.RangeEncoder()
    if not by_phase:
        coder.encode(ids.astype(np.int32).ravel(), id_model)
        return coder.get_compressed().astype("<u4").tobytes()
    counts = Flags(np.zeros(ids.shape[2], np.int64), np.zeros(ids.shape[2], np.int64))
    previous = None
    for phase in range(ids.shape[1]):
        current = ids[:, phase]  # (D, K)
        changed = np.ones(current.shape, bool)
        if previous is not None:
            changed = current != previous
            coder.encode(
                (~changed).astype(np.int32).ravel(), CATEGORICAL(perfect=False), counts.probabilities(len(ids))
            )
            counts = counts.update(~changed)
        if changed.any():
            coder.encode(current[changed].astype(np.int32), id_model)
        previous = current
    return coder.get_compressed().astype("<u4").tobytes()


def decode(data: bytes, shape: tuple[int, ...], id_model: Any, by_phase: bool) -> np.ndarray:
    """The inverse of `encode`, int64.

    Raises:
        ValueError: where the bytes are no code of this length.
    """
    if len(data) % 4:
        raise ValueError(f"the compressed file is damaged: {len(data)} bytes of ids, expected a multiple of 4")
    try:
        coder = QUEUE.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        if not by_phase:
            return coder.decode(id_model, int(np.prod(shape))).astype(np.int64).reshape(shape)
        return _decode_phases(coder, shape, id_model)
    except REFUSED as error:
        raise ValueError(f"the compressed file is damaged: its ids cannot be decoded ({error})") from None


def _decode_phases(coder: Any, shape: tuple[int, ...], id_model: Any) -> np.ndarray:
    slices, phases, places = shape
    counts = Flags(np.zeros(places, np.int64), np.zeros(places, np.int64))
    ids = np.zeros(shape, np.int64)
    for phase in range(phases):
        changed = np.ones((slices, places), bool)
        if phase:
            flags = coder.decode(CATEGORICAL(perfect=False), counts.probabilities(slices)).reshape(slices, places)
            changed = flags == 0
            counts = counts.update(~changed)
            ids[:, phase] = ids[:, phase - 1]
        if changed.any():
            ids[:, phase][changed] = coder.decode(id_model, int(changed.sum()))
    return ids
