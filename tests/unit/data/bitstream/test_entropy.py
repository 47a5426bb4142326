"""Laws of the range coder: what goes in comes out, on any machine, and repeats are cheap."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest

from data.bitstream.entropy import TokenTable, decode, encode, uniform
from tests.tiny import REPOSITORY


def tokens(seed: int, shape: tuple[int, int, int] = (3, 7, 4), size: int = 50, repeats: float = 0.7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, size, shape)
    for phase in range(1, shape[1]):
        same = rng.random(ids[:, phase].shape) < repeats
        ids[:, phase][same] = ids[:, phase - 1][same]
    return ids


@pytest.mark.parametrize("by_phase", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_ids_come_back_whatever_their_shape_and_codebook(seed: int, by_phase: bool) -> None:
    rng = np.random.default_rng(seed)
    shape, size = tuple(rng.integers(1, 9, 3)), int(rng.integers(2, 3000))
    ids = tokens(seed, shape, size, float(rng.random()))
    for model in (uniform(size), TokenTable(np.bincount(ids.ravel(), minlength=size)).model()):
        assert np.array_equal(decode(encode(ids, model, by_phase), shape, model, by_phase), ids)


def test_repeats_of_the_previous_phase_cost_little_and_frequent_ids_less() -> None:
    ids = tokens(0, (10, 20, 32), 1024, 0.9)
    assert len(encode(ids, uniform(1024), True)) < 0.3 * len(encode(ids, uniform(1024), False))
    skewed = np.random.default_rng(0).integers(0, 8, (4, 4, 32)) ** 3
    table = TokenTable(np.bincount(skewed.ravel(), minlength=1024))
    assert len(encode(skewed, table.model(), False)) < 0.5 * len(encode(skewed, uniform(1024), False))


def test_a_table_gives_every_id_a_frequency_and_sums_to_a_power_of_two() -> None:
    for counts in (np.zeros(5, int), np.array([0, 0, 10**12]), np.arange(4096)):
        frequencies = TokenTable(counts).frequencies
        assert frequencies.min() >= 1 and int(frequencies.sum()) == 1 << 22
    for wrong in (np.array([1.5, 2.0]), np.array([-1, 3]), np.array([3]), np.zeros((2, 2), int)):
        with pytest.raises(ValueError, match="expected integers of 0 or more"):
            TokenTable(wrong)


def test_another_process_with_another_number_of_threads_writes_the_same_code() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.unit.data.bitstream.test_entropy import *\n"
        "ids = tokens(3, (4, 9, 8), 300); table = TokenTable(np.bincount(ids.ravel(), minlength=300))\n"
        "print(encode(ids, table.model(), True).hex())"
    )
    printed = set()
    for threads in ("1", "4"):
        environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PATH": "/usr/bin"}
        command = [sys.executable, "-c", code, str(REPOSITORY)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        printed.add(done.stdout.strip())
    ids = tokens(3, (4, 9, 8), 300)
    table = TokenTable(np.bincount(ids.ravel(), minlength=300))
    assert printed == {encode(ids, table.model(), True).hex()}


@pytest.mark.parametrize("seed", range(50))
def test_any_bytes_decode_to_ids_of_the_codebook_or_are_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.bytes(int(rng.integers(0, 60)))
    ids = np.zeros(1, int)
    with contextlib.suppress(ValueError):  # no other error
        ids = decode(data, (2, 4, 3), uniform(50), bool(seed % 2))
    assert ids.min() >= 0 and ids.max() < 50
