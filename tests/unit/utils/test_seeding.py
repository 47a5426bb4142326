import numpy as np
import pytest
import torch

from utils.seeding import stable_seed


def test_a_seed_is_the_same_on_every_machine():
    assert stable_seed(0, 1, "patient001_z03") == 6429265857382342422


def test_parts_are_told_apart():
    seeds = [stable_seed(*parts) for parts in [("ab",), ("a", "b"), ("b", "a"), (1,), ("1",), (1, 1), (11,), ()]]
    assert len(set(seeds)) == len(seeds)


def test_a_seed_serves_torch_and_numpy():
    for i in range(64):
        seed = stable_seed("noise", i)
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)
        np.random.Generator(np.random.Philox(seed))


def test_a_numpy_integer_counts_as_its_value_and_a_float_is_refused():
    assert stable_seed(np.int64(7)) == stable_seed(7)
    with pytest.raises(TypeError):
        stable_seed(0.5)  # type: ignore[arg-type]
