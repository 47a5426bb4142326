import pytest
import torch
from torch.nn import Parameter

from utils.run.ema import EMA


def parameters(value: float = 0.0) -> dict[str, Parameter]:
    return {"a": Parameter(torch.full((2,), value)), "b": Parameter(torch.full((3, 1), value))}


def test_the_average_follows_the_warmed_up_decay():
    live = parameters()
    ema = EMA(live, decay=0.5)
    expected = 0.0
    for step in range(20):
        with torch.no_grad():
            for parameter in live.values():
                parameter.fill_(step + 1.0)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1.0)
        assert torch.allclose(ema.values["a"], torch.full((2,), expected))
        assert torch.allclose(ema.values["b"], torch.full((3, 1), expected))


def test_an_update_works_in_place_and_needs_no_gradient():
    ema = EMA(parameters(1.0), decay=0.9)
    address = ema.values["a"].data_ptr()
    ema.update(0)
    assert ema.values["a"].data_ptr() == address
    assert not ema.values["a"].requires_grad


def test_swapped_shows_the_averages_and_gives_the_parameters_back_even_after_an_error():
    live = parameters(1.0)
    ema = EMA(live, decay=0.9)
    with torch.no_grad():
        live["a"].fill_(5.0)
    with pytest.raises(RuntimeError), ema.swapped():
        assert torch.equal(live["a"], torch.ones(2))
        raise RuntimeError
    assert torch.equal(live["a"], torch.full((2,), 5.0))
    assert torch.equal(ema.values["a"], torch.ones(2))


def test_values_and_decay_survive_a_resume():
    ema, resumed = EMA(parameters(1.0), decay=0.9), EMA(parameters(2.0), decay=0.5)
    resumed.load_state_dict(ema.state_dict())
    assert resumed.decay == 0.9
    assert torch.equal(resumed.values["b"], torch.ones(3, 1))


def test_averages_of_other_parameters_are_refused():
    other = EMA({"a": Parameter(torch.zeros(2)), "c": Parameter(torch.zeros(1))}, decay=0.9)
    with pytest.raises(ValueError, match="the trained parameters differ: b, c"):
        EMA(parameters(), decay=0.9).load_state_dict(other.state_dict())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        EMA(parameters(), decay=decay)


def test_no_parameters_are_no_error():
    EMA({}, decay=0.9).update(0)
