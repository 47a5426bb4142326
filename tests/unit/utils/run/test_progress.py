"""What is not finite is named before it is saved, and the sums of the log are part of a run's state."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modeling.objective import build_objective
from utils.run.progress import Progress, codebook_use, named_tensors


def progress(codes: int = 4) -> Progress:
    objective = build_objective({"pixel": {"weight": 2.0}, "disease": {}})
    return Progress(list(objective.terms), objective.total, codes, torch.device("cpu"))


def add(to: Progress, sums: list[float], counts: list[float], norm: float = 1.0, key: str = "patient001_z00") -> None:
    to.add(torch.tensor(sums), torch.tensor(counts), torch.tensor(norm), [key])


def test_the_line_has_the_mean_of_each_term_over_all_that_it_counted() -> None:
    steps = progress()
    add(steps, [6.0, 0.0], [4.0, 0.0])
    add(steps, [2.0, 3.0], [4.0, 2.0], norm=3.0)
    steps.count(torch.tensor([[0, 1, -1], [1, 1, -1]]))
    line = dict(steps.line())
    assert (line["pixel"], line["count_pixel"]) == (1.0, 8.0)
    assert (line["disease"], line["count_disease"]) == (1.5, 2.0)
    assert line["loss"] == pytest.approx((2 * 1.5 + 2 * 0.5 + 0.1 * 1.5) / 2)  # weights 2 and, as by default, 0.1
    assert (line["grad_norm"], line["codes_used"]) == (2.0, 0.5)
    assert steps.rows == [] and not steps.usage.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_samples(value: float) -> None:
    steps = progress()
    add(steps, [1.0, 1.0], [1.0, 1.0])
    add(steps, [1.0, value], [1.0, 1.0], key="patient002_z03")
    add(steps, [value, value], [1.0, 1.0], key="patient009_z00")
    with pytest.raises(ValueError, match=rf"losses\.disease is {value} at step 41, samples patient002_z03; lower"):
        steps.check(42, {})


def test_a_gradient_that_is_not_finite_is_named_where_the_losses_are_finite() -> None:
    steps = progress()
    add(steps, [1.0, 1.0], [1.0, 1.0], norm=float("inf"), key="patient002_z03")
    with pytest.raises(ValueError, match=r"the gradient norm is inf at step 7 .* samples patient002_z03"):
        steps.check(7, {})


class Scaler:
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def get_scale(self) -> float:
        return self.scale


def test_fp16_may_skip_a_step_but_not_lower_its_scale_for_ever() -> None:
    steps = progress()
    add(steps, [1.0, 1.0], [1.0, 1.0], norm=float("inf"))
    add(steps, [1.0, 1.0], [1.0, 1.0], norm=2.0)
    steps.check(2, {}, Scaler(1024.0))
    assert steps.line()["grad_norm"] == 2.0
    with pytest.raises(ValueError, match="the loss scale of fp16 is 1e-05 at step 2"):
        steps.check(2, {}, Scaler(1e-5))


def test_weights_and_averages_that_are_not_finite_are_named() -> None:
    state: dict[str, Any] = {"ema": {"values": {"dit.bias": torch.tensor([1.0, float("nan")])}}, "n": torch.tensor(3)}
    state["optimizer"] = {"state": {0: {"exp_avg_sq": torch.tensor([float("inf")])}}, "param_groups": [{"lr": 0.1}]}
    with pytest.raises(ValueError, match=r"ema\.values\.dit\.bias, optimizer\.state\.0\.exp_avg_sq: not finite at st"):
        progress().check(5, named_tensors(state))
    progress().check(5, {"fine": torch.ones(2)})


def test_the_state_continues_the_sums_of_the_log() -> None:
    first, second = progress(), progress()
    add(first, [6.0, 0.0], [4.0, 0.0])
    first.count(torch.tensor([3, -1]))
    second.load_state_dict(first.state_dict())
    for steps in (first, second):
        add(steps, [2.0, 3.0], [4.0, 2.0])
    assert second.line() == first.line()
    assert second.unused().tolist() == first.unused().tolist() == [True, True, True, False]
    assert first.unused().all()


def test_ids_are_counted_as_bincount_counts_them_without_waiting_for_a_device() -> None:
    ids = torch.randint(-1, 4, (2, 3, 5))
    steps = progress()
    steps.count(ids)
    steps.count(None)
    assert steps.usage.long().tolist() == ids[ids >= 0].bincount(minlength=4).tolist()
    on_meta = progress()
    on_meta.usage, on_meta.seen = on_meta.usage.to("meta"), on_meta.seen.to("meta")
    on_meta.count(ids.to("meta"))  # an operation whose shape depends on values raises here


def test_perplexity_lies_between_one_and_the_size_of_the_codebook() -> None:
    def use(counts: list[float]) -> Tensor:
        return torch.tensor(counts)

    assert codebook_use(use([2.0, 2.0, 2.0, 2.0]))["perplexity"] == pytest.approx(4.0)
    assert codebook_use(use([8.0, 0.0, 0.0, 0.0])) == {"perplexity": pytest.approx(1.0), "codes_used": 0.25}
    assert codebook_use(torch.zeros(0)) == {}


def test_token_counts_outlive_a_resume_and_a_line_counts_half_as_much_as_the_next() -> None:
    steps = progress()
    for ids in ([0, 0, 0, 0, 1, 1], [2]):
        add(steps, [1.0, 1.0], [1.0, 1.0])
        steps.count(torch.tensor(ids))
        steps.line()
    resumed = progress()
    resumed.load_state_dict(steps.state_dict())
    assert steps.token_counts() == resumed.token_counts() == [2, 1, 1, 0]
