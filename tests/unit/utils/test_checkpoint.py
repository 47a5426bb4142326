import pickle

import pytest
import torch
from torch import nn

from utils.checkpoint import (
    export,
    latest_training,
    load_training,
    load_weights,
    save_checkpoint,
    save_training,
    start_from,
)  # fmt: skip
from utils.files import read_json


def model(width: int = 3) -> nn.Module:
    return nn.ModuleDict({"tokenizer": nn.Linear(2, width), "dit": nn.Linear(2, 2)})


def save(folder, config: dict, state: dict) -> None:
    """What a run writes at its end."""
    export(folder, config, state)
    save_checkpoint(folder / "checkpoint_last.pth", config, state)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_saved_model_is_read_back_from_all_its_forms(tmp_path):
    state, config = model().state_dict(), {"model": {"width": 3}}
    save(tmp_path / "run", config, state)
    for name, expected in (("", config), ("checkpoint_last.pth", config), ("model.safetensors", None)):
        weights, found = load_weights(tmp_path / "run" / name)
        assert same(weights, state)
        assert found == expected


def test_the_published_config_may_differ_from_the_one_in_the_checkpoint(tmp_path):
    export(tmp_path, {"width": 3}, model().state_dict())
    save_checkpoint(tmp_path / "checkpoint_last.pth", {"training": {"seed": 1}}, model().state_dict())
    assert load_weights(tmp_path)[1] == read_json(tmp_path / "config.json") == {"width": 3}
    assert load_weights(tmp_path / "checkpoint_last.pth")[1] == {"training": {"seed": 1}}


def test_weights_that_share_memory_or_are_transposed_can_be_saved(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    state = {"tokenizer.a": table, "tokenizer.b": table, "tokenizer.c": table.T}
    save(tmp_path, {}, state)
    assert same(load_weights(tmp_path)[0], state)


def test_a_bare_state_dict_is_read(tmp_path):
    state = model().state_dict()
    torch.save(state, tmp_path / "weights.pth")
    weights, config = load_weights(tmp_path / "weights.pth")
    assert same(weights, state)
    assert config is None


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickled_file_is_named_and_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    torch.save({"model": Trap()}, tmp_path / "zipped.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap()))
    for name in ("zipped.pth", "plain.pth"):
        with pytest.raises(ValueError, match=rf"{name}: .*(never run|not a whole checkpoint)"):
            load_weights(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["checkpoint_last.pth", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_named_in_the_error(tmp_path, name, share):
    save(tmp_path, {}, model().state_dict())
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"{name}: not a whole"):
        load_weights(tmp_path / name)


def test_a_missing_file_is_named_in_the_error(tmp_path):
    for name in ("gone.pth", "gone.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            load_weights(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_weights(tmp_path)


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: expected a state dict.*found the keys epoch"):
        load_weights(tmp_path / "other.pth")


def test_a_component_that_the_file_lacks_stays_fresh_and_is_listed():
    source, target = model(), model()
    fresh = target["dit"].weight.clone()
    state = {key: value for key, value in source.state_dict().items() if key.startswith("tokenizer.")}
    assert start_from(target, {**state, "extra.weight": torch.zeros(1)}, "run.pth") == ["dit"]
    assert same(target["tokenizer"].state_dict(), source["tokenizer"].state_dict())
    assert torch.equal(target["dit"].weight, fresh)


def test_a_component_of_another_shape_is_an_error_and_changes_nothing():
    target = model()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"run\.pth: component tokenizer: .*tokenizer\.weight \(4, 2\) instead of \(3, 2\)"
    ):
        start_from(target, model(width=4).state_dict(), "run.pth")
    assert same(target.state_dict(), before)


def test_a_component_with_other_keys_is_an_error():
    state = model().state_dict()
    state["dit.scale"] = state.pop("dit.bias")
    with pytest.raises(ValueError, match=r"component dit: missing keys: dit\.bias; unknown keys: dit\.scale"):
        start_from(model(), state, "run.pth")


def test_a_file_without_any_component_is_an_error():
    with pytest.raises(ValueError, match=r"holds none of the model's components \(tokenizer, dit\), found encoder"):
        start_from(model(), {"encoder.weight": torch.zeros(1)}, "run.pth")


def test_the_newest_training_checkpoints_are_kept_and_read_back(tmp_path):
    assert latest_training(tmp_path) is None
    for step in (9, 10, 100):
        save_training(
            tmp_path, step, {"step": step, "weight": torch.ones(2), "nested": {"lr": 0.1, "betas": (0.9, 0.99)}}
        )
    latest = latest_training(tmp_path)
    assert latest == tmp_path / "checkpoints" / "step_100"
    assert sorted(path.name for path in latest.parent.iterdir()) == ["step_10", "step_100"]
    payload = load_training(latest)
    assert payload["step"] == 100
    assert payload["nested"] == {"lr": 0.1, "betas": (0.9, 0.99)}


def test_the_checkpoint_just_written_is_never_the_one_removed(tmp_path):
    for step in (50, 60, 5):
        path = save_training(tmp_path, step, {"step": step})
    assert load_training(path)["step"] == 5
    assert sorted(folder.name for folder in path.parent.iterdir()) == ["step_5", "step_60"]


def test_an_optimizer_survives_the_round_trip(tmp_path):
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    state = load_training(save_training(tmp_path, 1, {"optimizer": optimizer.state_dict()}))["optimizer"]
    assert torch.equal(state["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert state["param_groups"] == optimizer.state_dict()["param_groups"]
