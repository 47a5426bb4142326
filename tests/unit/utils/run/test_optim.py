"""What trains, in which groups, at which rate."""

import pytest

from tests.tiny import tiny_model
from utils.run.optim import OptimizerConfig, learning_rate, names, parameter_groups, select_trainable


def test_the_learning_rate_warms_up_and_falls_to_its_end_fraction() -> None:
    optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=10, end_fraction=0.1)
    rates = [learning_rate(step, optimizer, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10] == pytest.approx(1.0) and rates[100] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_only_what_the_globs_name_trains_and_the_rest_is_in_eval_mode() -> None:
    model = tiny_model()
    chosen = select_trainable(model, ["dit.blocks.1.*", "dit.head.*"])
    assert set(chosen) == {n for n, _ in model.named_parameters() if n.startswith(("dit.blocks.1.", "dit.head."))}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(chosen)
    assert model.dit is not None and model.dit.training and not model.tokenizer.training


def test_a_glob_names_whole_modules_and_a_range_of_numbered_ones() -> None:
    name = "dit.blocks.10.attn.qkv.weight"
    for glob in ("dit", "dit.blocks.10", "dit.blocks.8-11", "dit.blocks.8-11.attn.*", "dit.blocks.8-11.*", "*qkv*"):
        assert names(glob, name), glob
    for glob in ("dit.blocks.1", "dit.blocks.8-9", "dit.blocks.11-8", "di", "dit.blocks.8-11.mlp"):
        assert not names(glob, name), glob


@pytest.mark.parametrize("globs", [["dti.*"], []])
def test_globs_that_name_nothing_are_refused_with_the_names_there_are(globs: list[str]) -> None:
    with pytest.raises(ValueError, match=r"adapters\.\*, dit\.\*, tokenizer\.\*"):
        select_trainable(tiny_model(), globs)


def test_scales_divide_parameters_among_groups_and_each_must_be_used() -> None:
    model = tiny_model("titok")
    chosen = select_trainable(model, ["*"])
    groups = parameter_groups(chosen, OptimizerConfig(scale={"tokenizer.*": 0.1}))
    slow = {id(p) for group in groups if group["scale"] == 0.1 for p in group["params"]}
    assert slow == {id(p) for p in model.tokenizer.parameters()}
    assert sum(len(group["params"]) for group in groups) == len(chosen)
    assert all(p.ndim >= 2 for group in groups if group["weight_decay"] for p in group["params"])
    with pytest.raises(ValueError, match=r"dit\.\* matches no trained parameter"):
        parameter_groups(chosen, OptimizerConfig(scale={"dit.*": 0.1}))
