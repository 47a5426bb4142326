import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from utils.log import RunLog, user_errors


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_write_is_one_line_on_disk_at_once(tmp_path):
    log = RunLog(tmp_path / "run")
    log.write(1, {"loss": np.float32(0.5), "perplexity": float("nan"), "fresh": ["dit"]})
    assert lines(tmp_path / "run") == [{"step": 1, "loss": 0.5, "perplexity": None, "fresh": ["dit"]}]
    log.close()


def test_a_resumed_run_adds_to_its_log(tmp_path):
    for step in (1, 2):
        log = RunLog(tmp_path)
        log.write(step, {})
        log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_log_that_is_not_enabled_writes_nothing(tmp_path):
    log = RunLog(tmp_path / "run", enabled=False)
    log.write(1, {"loss": 1.0})
    log.image("recon", 1, np.zeros((2, 2)))
    log.close()
    assert not (tmp_path / "run").exists()


def test_a_picture_is_clipped_and_saved_under_its_name_and_step(tmp_path):
    log = RunLog(tmp_path)
    log.image("recon", 20, np.array([[-1.0, 0.5], [1.0, 2.0]], dtype=np.float32))
    log.close()
    picture = np.asarray(Image.open(tmp_path / "samples" / "recon_0000020.png"))
    assert picture.tolist() == [[0, 128], [255, 255]]


@pytest.mark.parametrize("name", ["../x", "a/b", "", "a.b"])
def test_a_picture_name_that_could_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="picture name"):
        RunLog(tmp_path).image(name, 0, np.zeros((2, 2)))


def test_wandb_is_offline_and_sees_no_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    calls: list[dict] = []
    run = types.SimpleNamespace(log=lambda values, step: calls.append(values), finish=lambda: calls.append({}))
    fake = types.ModuleType("wandb")
    fake.Settings = lambda **settings: settings  # type: ignore[attr-defined]
    fake.init = lambda **options: calls.append(options) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    log = RunLog(tmp_path, wandb=True, run_config={"dataset": {"path": ["/data/hospital/acdc_wds"], "size": 64}})
    log.write(3, {"loss": 1.0})
    log.close()
    assert calls[0]["mode"] == "offline"
    assert calls[0]["config"] == {"dataset": {"path": ["acdc_wds"], "size": 64}}
    assert calls[1:] == [{"step": 3, "loss": 1.0}, {}]


def test_the_settings_given_to_wandb_are_ones_that_it_knows():
    wandb = pytest.importorskip("wandb")
    settings = wandb.Settings(disable_git=True, disable_code=True, x_disable_meta=True, console="off")
    assert settings.x_disable_meta


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        (ValueError("patient001: wrong\n  shape"), "error: patient001: wrong shape\n"),
        (FileNotFoundError("acdc_wds: no such folder"), "error: acdc_wds: no such folder\n"),
        (PermissionError(13, "Permission denied", "out"), "error: out: Permission denied\n"),
        (ValueError(), "error: ValueError\n"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_1(raised, line, capsys, monkeypatch):
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)

    @user_errors()
    def main() -> None:
        raise raised

    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    assert capsys.readouterr().err == line


class Broken(torch.utils.data.Dataset):
    def __getitem__(self, index: int):
        try:
            raise OSError("what was behind it")
        except OSError as error:
            raise ValueError("train-000001.tar: has 5 bytes instead of 9") from error

    def __len__(self) -> int:
        return 1


def test_an_error_of_a_loading_process_is_that_error_in_one_line(capsys, monkeypatch):
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)
    with pytest.raises(SystemExit), user_errors():
        next(iter(torch.utils.data.DataLoader(Broken(), num_workers=1)))
    assert capsys.readouterr().err == "error: train-000001.tar: has 5 bytes instead of 9\n"


def test_the_traceback_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("TITOK_MRI_TRACEBACK", "1")
    with pytest.raises(ValueError, match="why"), user_errors():
        raise ValueError("why")


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(KeyError), user_errors():
        raise KeyError("bug")
