"""The quantizer: steps by index, and an error that its offset bounds."""

import pytest
import torch

from modeling.ladder.quantizer import FINEST, OFFSET, PER_OCTAVE, STEPS, nearest_index, quantize, step_size
from utils.ladder.symbols import LADDER_STEPS


def values() -> torch.Tensor:
    return 3 * torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_step_has_one_index() -> None:
    assert [nearest_index(step_size(index)) for index in range(STEPS)] == list(range(STEPS))
    assert STEPS == LADDER_STEPS


def test_steps_double_every_octave_and_the_nearest_one_is_taken() -> None:
    assert step_size(0) == FINEST
    for index in range(STEPS - PER_OCTAVE):
        assert step_size(index + PER_OCTAVE) == pytest.approx(2 * step_size(index), rel=1e-12)
        assert nearest_index(step_size(index) * 2 ** (0.4 / PER_OCTAVE)) == index
        assert nearest_index(step_size(index) * 2 ** (0.6 / PER_OCTAVE)) == index + 1


def test_a_step_beyond_the_scale_is_its_end() -> None:
    assert nearest_index(1e-30) == 0 and nearest_index(1e30) == STEPS - 1


@pytest.mark.parametrize("index", [-1, STEPS])
def test_an_index_beyond_the_scale_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=f"step index {index}: expected 0 to {STEPS - 1}"):
        step_size(index)


@pytest.mark.parametrize("offset", [0.5, OFFSET, 0.3])
@pytest.mark.parametrize("index", [0, 100, 214, STEPS - 1])
def test_an_error_is_at_most_one_minus_the_offset_steps_and_values_move_towards_zero(index: int, offset: float) -> None:
    step, x = step_size(index), values()
    decoded = quantize(x, step, offset) * step
    assert (decoded - x).abs().max() <= (1 - offset) * step * (1 + 1e-9)
    assert (decoded.abs() <= x.abs() + offset * step * (1 + 1e-9)).all()


def test_zero_stays_zero_and_signs_are_kept() -> None:
    assert not quantize(torch.zeros(5), 0.1).any()
    x = values()
    symbols = quantize(x, 0.7)
    assert symbols.dtype == torch.int32 and symbols.any()
    assert torch.equal(quantize(-x, 0.7), -symbols)
    assert (symbols * x >= 0).all()


def test_half_an_offset_rounds_to_the_nearest_and_a_smaller_one_leaves_more_zeros() -> None:
    x = values()
    assert torch.equal(quantize(x, 0.7, 0.5), (x / 0.7).round().int())
    assert (quantize(x, 0.7, 0.3) == 0).sum() > (quantize(x, 0.7) == 0).sum() > (quantize(x, 0.7, 0.5) == 0).sum()
