"""Symbols become binary decisions of known probability, and come back from as few bits as these allow."""

import numpy as np
import pytest
import torch

from data.bitstream.decisions import Decoder, Encoder, code_symbols, probabilities
from modeling.ladder.network import frequency_table, symbol_bits
from utils.ladder.symbols import DECISIONS, EXPONENTS, LAST, MAX_EXPONENT, PER_UNIT, PRECISION, UNARY

FREQUENCIES = frequency_table().numpy()
ENDS = np.array([0, 1, -1, 2, -2, 3, 255, -256, (1 << MAX_EXPONENT) - 1, -(1 << MAX_EXPONENT)])


def random_logits(count: int, seed: int, most: int = LAST) -> np.ndarray:
    return np.random.default_rng(seed).integers(-most, most + 1, (count, DECISIONS)).astype(np.int16)


def coded(passes: list[tuple[np.ndarray, np.ndarray]]) -> bytes:
    encoder = Encoder(FREQUENCIES)
    for logits, symbols in passes:
        code_symbols(encoder, logits, symbols)
    return encoder.code()


def decoded(code: bytes, passes: list[np.ndarray]) -> tuple[list[np.ndarray], bytes]:
    decoder = Decoder(code, FREQUENCIES)
    found = [code_symbols(decoder, logits, None) for logits in passes]
    return found, decoder.code()


@pytest.mark.parametrize("spread", [0.3, 3.0, 1e5])
@pytest.mark.parametrize("seed", range(5))
def test_symbols_come_back_from_any_logits_in_any_number_of_passes(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    passes = []
    for number, count in enumerate(rng.integers(0, 200, 6)):
        symbols = np.rint(rng.laplace(0, spread, count)).astype(np.int64)
        passes.append((random_logits(int(count), 10 * seed + number), symbols))
    passes.append((random_logits(len(ENDS), seed), ENDS))
    code = coded(passes)
    found, again = decoded(code, [logits for logits, _ in passes])
    for (_, symbols), same in zip(passes, found, strict=True):
        np.testing.assert_array_equal(same, symbols)
    assert again == code


def test_no_decision_takes_no_byte_and_a_code_never_ends_in_zero() -> None:
    assert coded([]) == coded([(random_logits(0, 0), np.zeros(0, int))]) == b""
    certain = np.full((100, DECISIONS), LAST, np.int16)
    assert len(coded([(certain, np.zeros(100, int))])) <= 4  # each decision costs about nothing
    for seed in range(20):
        assert not coded([(random_logits(9, seed), ENDS[:9])]).endswith(b"\0")


def test_a_code_has_the_bits_that_its_probabilities_allow() -> None:
    logits, rng = random_logits(3000, 1, 60), np.random.default_rng(1)
    symbols = np.rint(rng.laplace(0, 4, 3000)).astype(np.int64)
    encoder = Encoder(FREQUENCIES)
    code_symbols(encoder, logits, symbols)
    pairs = [probabilities(at, FREQUENCIES) for at in encoder._logits]
    chosen = np.concatenate([p[np.arange(len(p)), v.astype(int)] for p, v in zip(pairs, encoder._values, strict=True)])
    assert 8 * len(encoder.code()) == pytest.approx(-np.log2(chosen).sum(), abs=64)


@pytest.mark.parametrize("spread", [0.4, 4.0, 1e4])
def test_the_bits_that_the_network_trains_on_are_those_of_the_code(spread: float) -> None:
    logits, rng = random_logits(2000, 2, 60), np.random.default_rng(2)
    symbols = np.rint(rng.laplace(0, spread, 2000)).astype(np.int64)
    symbols[: len(ENDS)] = ENDS
    expected = float(symbol_bits(torch.from_numpy(logits).float() / PER_UNIT, torch.from_numpy(symbols)).sum())
    assert 8 * len(coded([(logits, symbols)])) == pytest.approx(expected, rel=0.002, abs=64)


def test_a_right_prediction_is_cheap_and_a_wrong_one_dear() -> None:
    zeros, logits = np.zeros(1000, np.int64), np.zeros((1000, DECISIONS), np.int16)
    sizes = []
    for value in (LAST, 40, 0, -40):
        logits[:, 0] = value
        sizes.append(len(coded([(logits, zeros)])))
    assert sizes == sorted(sizes) and sizes[0] <= 4 and abs(8 * sizes[2] - 1000) <= 40 and sizes[3] > 2 * sizes[2]


@pytest.mark.parametrize("symbol", [2 << MAX_EXPONENT, -(2 << MAX_EXPONENT), 1 << 40])
def test_a_symbol_that_is_too_large_is_refused(symbol: int) -> None:
    with pytest.raises(ValueError, match="needs more than 24 bits"):
        coded([(random_logits(3, 0), np.array([1, symbol, 0]))])


def test_a_code_whose_exponent_does_not_end_is_refused() -> None:
    encoder, even = Encoder(FREQUENCIES), np.zeros(1, np.int16)
    for value in (False, False, *[True] * (MAX_EXPONENT + 1)):  # not zero, not negative, and on and on
        encoder.bits(even, np.array([value]))
    with pytest.raises(ValueError, match="needs more than 24 bits"):
        decoded(encoder.code(), [np.zeros((1, DECISIONS), np.int16)])


def test_larger_exponents_share_the_last_decision() -> None:
    exponent = MAX_EXPONENT - 1
    mantissas = np.random.default_rng(0).integers(0, 1 << exponent, 500)
    logits, symbols, bits = np.zeros((500, DECISIONS), np.int16), (1 << exponent) + mantissas, []
    for column in (None, UNARY, UNARY + EXPONENTS - 1):
        chosen = logits.copy()
        chosen[:, [] if column is None else column] = 16 * 3  # the exponent goes on with probability 0.95
        bits.append(8 * len(coded([(chosen, symbols)])) / 500)
    go, stop = np.log2(1 + np.exp(-3)), np.log2(1 + np.exp(3))
    assert bits[0] == pytest.approx(2 + exponent + 1 + exponent, abs=0.1)  # zero, sign, exponent, mantissa
    assert bits[0] - bits[1] == pytest.approx(1 - go, abs=0.1)
    shared = exponent - (EXPONENTS - 1)
    assert bits[0] - bits[2] == pytest.approx(shared * (1 - go) + 1 - stop, abs=0.1)


def test_the_probabilities_of_a_decision_are_exact_and_sum_to_one() -> None:
    pairs = probabilities(np.arange(-LAST, LAST + 1), FREQUENCIES)
    scaled = pairs * (1 << PRECISION)
    assert (scaled == np.rint(scaled)).all() and (pairs.sum(1) == 1).all() and (pairs > 0).all()
    assert (np.diff(pairs[:, 1]) >= 0).all()


@pytest.mark.parametrize("seed", range(30))
def test_random_bytes_are_other_symbols_or_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.bytes(int(rng.integers(0, 40)))
    logits = random_logits(60, seed)
    try:
        found, again = decoded(data, [logits])
    except (ValueError, AssertionError):
        return
    assert coded([(logits, found[0].astype(np.int64))]) == again
