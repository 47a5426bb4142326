"""A state of a run is checked when it is written and when it is read, and nothing healthy is removed for a bad one."""

import os
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils.checkpoint import load_archive
from utils.run.state import newest_training, one_run, save_training, sweep_run


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def test_the_newest_states_are_kept_and_read_back(tmp_path: Path) -> None:
    assert newest_training(tmp_path, print) is None
    for step in (9, 10, 100):
        payload = {"step": step, "weight": torch.ones(2), "nested": {"lr": 0.1, "betas": (0.9, 0.99)}}
        save_training(tmp_path, step, payload)
    newest = newest_training(tmp_path, print)
    assert newest is not None and newest[0] == tmp_path / "checkpoints" / "step_100"
    assert kept(tmp_path) == ["step_10", "step_100"]
    read = newest[1]
    assert read["step"] == 100 and read["nested"] == {"lr": 0.1, "betas": (0.9, 0.99)}


def test_states_at_multiples_of_a_step_are_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in (2, 3, 4, 5, 6, 7):
        save_training(tmp_path, step, {"step": step}, keep_last=1, keep_every=3)
    assert kept(tmp_path) == ["step_3", "step_6", "step_7"]


def test_the_state_just_written_is_never_the_one_removed(tmp_path: Path) -> None:
    for step in (50, 60, 5):
        path = save_training(tmp_path, step, {"step": step})
    assert load_archive(path / "state.pth")["step"] == 5 and kept(tmp_path) == ["step_5", "step_60"]


def test_an_optimizer_survives_the_round_trip(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = save_training(tmp_path, 1, {"optimizer": optimizer.state_dict()})
    state = load_archive(path / "state.pth")["optimizer"]
    assert torch.equal(state["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert state["param_groups"] == optimizer.state_dict()["param_groups"]


def test_the_scaler_of_fp16_survives_the_round_trip(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    path = save_training(tmp_path, 1, {"scaler": scaler.state_dict()})
    again = torch.amp.GradScaler("cpu", init_scale=2.0)
    again.load_state_dict(load_archive(path / "state.pth")["scaler"])
    assert again.get_scale() == 1024.0


def test_no_flipped_bit_changes_a_state_in_silence_and_the_state_before_is_used(tmp_path: Path) -> None:
    weight = torch.arange(500.0)
    for step in (1, 2):
        save_training(tmp_path, step, {"step": step, "weight": weight})
    state = tmp_path / "checkpoints" / "step_2" / "state.pth"
    whole, damaged_ones = state.read_bytes(), 0
    for bit in np.random.default_rng(0).integers(8 * len(whole), size=200):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        state.write_bytes(data)
        said: list[str] = []
        newest = newest_training(tmp_path, said.append)
        assert newest is not None
        payload = newest[1]
        assert torch.equal(payload["weight"], weight) and payload["step"] == (1 if said else 2)
        if said:
            damaged_ones += 1
            assert "step_2/state.pth: " in said[0] and "now damaged_step_2" in said[0]
            (tmp_path / "checkpoints" / "damaged_step_2").rename(state.parent)
    assert damaged_ones > 100


def test_a_run_whose_states_are_all_damaged_does_not_start_again_in_silence(tmp_path: Path) -> None:
    for step in (1, 2):
        (save_training(tmp_path, step, {"step": step}) / "state.pth").write_bytes(b"PK")
    for _ in range(2):  # the second start must not find an empty folder
        with pytest.raises(ValueError, match=r"all 2 checkpoints are damaged .*; give another experiment.output_dir"):
            newest_training(tmp_path, print)
    assert kept(tmp_path) == ["step_1", "step_2"]


def test_a_full_disk_is_named_and_costs_no_earlier_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2):
        save_training(tmp_path, step, {"step": step})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: types.SimpleNamespace(free=3_000_000))
    with pytest.raises(OSError, match=r"step_3: the disk is full: it needs 4\.0 MB, and 3\.0 MB are free"):
        save_training(tmp_path, 3, {"weight": torch.ones(1_000_000)})
    assert kept(tmp_path) == ["step_1", "step_2"]


def test_a_state_that_cannot_be_read_back_costs_no_earlier_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_training(tmp_path, step, {"step": step})
    monkeypatch.setattr(torch, "save", lambda payload, path: path.write_bytes(b"PK\3\4 cut off"))
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        save_training(tmp_path, 3, {})
    assert kept(tmp_path) == ["step_1", "step_2"]


def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    save_training(tmp_path, 1, {"step": 1})
    (tmp_path / ".0a1b2c3d.model.safetensors").write_text("cut off")
    (tmp_path / "checkpoints" / ".0a1b2c3d.step_2").mkdir()
    (tmp_path / "checkpoints" / ".0a1b2c3d.step_2" / "state.pth").write_text("cut off")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / ".0a1b2c3d.config.json").write_text("cut off")
    (tmp_path / ".config").write_text("of the user")
    left = [".0a1b2c3d.model.safetensors", ".0a1b2c3d.step_2", ".0a1b2c3d.config.json"]
    assert sweep_run(tmp_path) == left and not list((tmp_path / "best").iterdir())
    assert sorted(os.listdir(tmp_path)) == [".config", "best", "checkpoints"] and kept(tmp_path) == ["step_1"]


def test_an_output_that_cannot_be_a_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=r"cannot be used as a folder \(.*\); choose another"), one_run(place):
            pass


def test_a_run_that_wrote_nothing_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="why"), one_run(tmp_path / "run"):
        raise ValueError("why")
    assert not (tmp_path / "run").exists()
