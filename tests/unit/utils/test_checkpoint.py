import contextlib
import pickle
import resource
import shutil
import signal
import types

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint import (
    export,
    load_weights,
    save_checkpoint,
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
        assert expected is None or found.items() >= expected.items()


def test_the_published_config_may_differ_from_the_one_in_the_checkpoint(tmp_path):
    export(tmp_path, {"width": 3}, model().state_dict())
    save_checkpoint(tmp_path / "checkpoint_last.pth", {"training": {"seed": 1}}, model().state_dict())
    assert load_weights(tmp_path)[1] == read_json(tmp_path / "config.json")
    assert load_weights(tmp_path)[1]["width"] == 3
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
        with pytest.raises(ValueError, match=rf"{name}: .*(never executed|not a complete checkpoint)"):
            load_weights(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["checkpoint_last.pth", "model.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_truncated_file_is_named_in_the_error(tmp_path, name, share):
    save(tmp_path, {}, model().state_dict())
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match=rf"{name}: not a complete"):
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


def test_a_flipped_bit_of_weights_is_never_loaded(tmp_path):
    save(tmp_path, {"model": {}}, model().state_dict())
    random = np.random.default_rng(0)
    for name, place in (("model.safetensors", tmp_path), ("checkpoint_last.pth", tmp_path / "checkpoint_last.pth")):
        whole, intact = (tmp_path / name).read_bytes(), load_weights(place)[0]
        for bit in random.integers(8 * len(whole), size=200):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(ValueError):
                assert same(load_weights(place)[0], intact)  # the bit has no meaning, as in padding
        (tmp_path / name).write_bytes(whole)


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    state = model().state_dict()
    save(tmp_path, {}, state)
    before = (tmp_path / "model.safetensors").read_bytes()
    state["dit.bias"][0] = float("nan")
    for write in (lambda: export(tmp_path, {}, state), lambda: save_checkpoint(tmp_path / "x.pth", {}, state)):
        with pytest.raises(ValueError, match=r"dit\.bias holds NaN"):
            write()
    assert (tmp_path / "model.safetensors").read_bytes() == before and not (tmp_path / "x.pth").exists()


def test_a_disk_that_is_too_small_is_named_with_the_space_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: types.SimpleNamespace(free=20))
    with pytest.raises(OSError, match=r"model\.safetensors: the disk is full: it needs 0\.0 MB, and 0\.0 MB are"):
        export(tmp_path, {}, model().state_dict())
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_the_system_refuses_leaves_the_earlier_file(tmp_path):
    save(tmp_path, {}, model().state_dict())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    large = {"dit.weight": torch.ones(1 << 16)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # as a quota would
        with pytest.raises(OSError, match=r"model\.safetensors: cannot be written \(.*it needs 0\.3 MB"):
            export(tmp_path, {}, large)
        with pytest.raises(OSError, match=r"checkpoint_last\.pth: cannot be written \(.*it needs 0\.3 MB"):
            save_checkpoint(tmp_path / "checkpoint_last.pth", {}, large)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
