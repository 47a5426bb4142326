"""Symbols of the ladder as a range code: binary decisions, each with the probability that the context model predicts.

A probability is an integer in units of 2^-PRECISION, so every machine computes the same code. The decisions of a pass
stand in this order: zero flags of all positions, signs, exponents (all first decisions, all second ones ...), first
bits of the mantissas, other bits. See utils/ladder/symbols.py.

Source: Martin, Range encoding, 1979 (coder of constriction); Elias, 1975 (magnitudes).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from data.bitstream.entropy import CATEGORICAL, QUEUE
from utils.ladder.symbols import EXPONENTS, FIRST_BIT, LAST, MAX_EXPONENT, PRECISION, SIGN, UNARY, ZERO

BINARY = CATEGORICAL(perfect=False)
WORD_BYTES = 4


class Coder(Protocol):
    """Codes binary decisions: an encoder is told them and returns them, a decoder finds them."""

    encodes: bool

    def bits(self, logits: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Code decisions.

        Args:
            logits: (m,) quantized logits.
            values: (m,) bool, for an encoder.

        Returns:
            (m,) bool.
        """


class Encoder:
    """Write decisions.

    Args:
        frequencies: probability of 1 for each logit from -LAST to LAST.
    """

    encodes = True

    def __init__(self, frequencies: np.ndarray) -> None:
        self.frequencies = frequencies
        self._logits: list[np.ndarray] = []
        self._values: list[np.ndarray] = []

    def bits(self, logits: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        assert values is not None
        self._logits.append(logits)
        self._values.append(values)
        return values

    def code(self) -> bytes:
        """Return the code of all decisions; zeros at its end are left out."""
        if not self._logits:
            return b""
        coder = QUEUE.RangeEncoder()
        logits, values = np.concatenate(self._logits), np.concatenate(self._values)
        if logits.size:
            coder.encode(values.astype(np.int32), BINARY, probabilities(logits, self.frequencies))
        return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class Decoder:
    """Read decisions.

    Args:
        code: from `Encoder.code`.
        frequencies: probability of 1 for each logit from -LAST to LAST.
    """

    encodes = False

    def __init__(self, code: bytes, frequencies: np.ndarray) -> None:
        self.frequencies = frequencies
        words = code + b"\0" * (-len(code) % WORD_BYTES)
        self._coder: Any = QUEUE.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        self._again = Encoder(frequencies)

    def bits(self, logits: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """See `Coder`."""
        if not logits.size:
            return np.zeros(0, bool)
        answers = self._coder.decode(BINARY, probabilities(logits, self.frequencies)).astype(bool)
        return self._again.bits(logits, answers)

    def code(self) -> bytes:
        """Return the code of the decisions that were read; a canonical file has the same."""
        return self._again.code()


def probabilities(logits: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Return the probabilities of 0 and 1, (m, 2), exact multiples of 2^-PRECISION."""
    ones = frequencies[logits.astype(np.int64) + LAST].astype(np.float64) / (1 << PRECISION)
    return np.stack([1 - ones, ones], 1)


def code_symbols(coder: Coder, logits: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
    """Code the symbols of one pass of one slice.

    Args:
        coder: encoder or decoder.
        logits: (m, DECISIONS) quantized logits.
        symbols: (m,) integers of at most MAX_EXPONENT bits, for an encoder.

    Returns:
        (m,) int32, the symbols.

    Raises:
        ValueError: for a symbol that is too large.
    """
    known = symbols is not None
    given = np.zeros(len(logits), np.int64) if symbols is None else symbols.astype(np.int64)
    result = np.zeros(len(logits), np.int64)
    at = np.flatnonzero(~coder.bits(logits[:, ZERO], given == 0 if known else None))
    if not at.size:
        return result.astype(np.int32)
    logits, given = logits[at], given[at]
    sizes = np.abs(given)
    negative = coder.bits(logits[:, SIGN], given < 0 if known else None)
    true_exponents = np.frexp(sizes)[1].astype(np.int64) - 1  # floor(log2), exact below 2^53
    exponents, going = np.zeros(len(at), np.int64), np.arange(len(at))
    for k in range(MAX_EXPONENT + 1):
        if not going.size:
            break
        more = coder.bits(logits[going, UNARY + min(k, EXPONENTS - 1)], true_exponents[going] > k if known else None)
        going = going[more]
        exponents[going] += 1
    if going.size:
        raise ValueError(f"a symbol needs more than {MAX_EXPONENT} bits: the step is too small, or the file is damaged")
    values = np.ones(len(at), np.int64)
    for bit in range(MAX_EXPONENT):
        place = np.flatnonzero(exponents > bit)
        if not place.size:
            break
        left = exponents[place] - 1 - bit
        even = np.zeros(len(place), logits.dtype)  # logit 0: both values are equally probable
        own = logits[place, FIRST_BIT + (exponents[place] > 1)] if bit == 0 else even
        ones = coder.bits(own, (sizes[place] >> left) & 1 == 1 if known else None)
        values[place] = 2 * values[place] + ones
    result[at] = np.where(negative, -values, values)
    return result.astype(np.int32)
