import contextlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.run.log import RunLog


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_write_is_one_line_on_disk_at_once(tmp_path):
    log = RunLog(tmp_path / "run")
    log.write(1, {"loss": np.float32(0.5), "perplexity": float("nan"), "fresh": ["dit"]})
    assert lines(tmp_path / "run") == [{"step": 1, "loss": 0.5, "perplexity": None, "fresh": ["dit"]}]
    log.close()


def test_a_resumed_run_continues_its_log_after_the_step_of_its_checkpoint(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.write(step, {})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')  # a process was killed here
    log = RunLog(tmp_path, start=2)
    log.write(3, {"loss": 1})
    log.close()
    assert lines(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1}]


def test_a_run_from_the_beginning_starts_a_new_log(tmp_path):
    for _ in range(2):
        log = RunLog(tmp_path)
        log.write(1, {})
        log.close()
    assert lines(tmp_path) == [{"step": 1}]


def test_a_line_that_is_none_of_a_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nhello\n{"step": 2}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl: line 2 is no line of a log"):
        RunLog(tmp_path, start=2)


def test_a_full_disk_is_named_with_the_log(tmp_path):
    log = RunLog(tmp_path)
    log._file = Path("/dev/full").open("w")  # noqa: SIM115 - the log closes it
    with pytest.raises(OSError) as caught:
        log.write(1, {"loss": 1.0})
    assert caught.value.filename == str(tmp_path / "log.jsonl")
    with contextlib.suppress(OSError):
        log._file.close()


def test_tensorboard_sees_numbers_and_pictures_or_is_named_as_missing(tmp_path, monkeypatch):
    seen: list[tuple] = []
    board = types.SimpleNamespace(
        add_scalar=lambda name, value, step: seen.append((name, value, step)),
        add_image=lambda name, array, step, dataformats: seen.append((name, dataformats, step)),
        close=lambda: None,
    )
    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = lambda folder, purge_step: seen.append((folder, purge_step)) or board  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    log = RunLog(tmp_path, start=4, tensorboard=True)
    log.write(5, {"loss": 1.0, "speed": {"frames_per_s": 2.0}, "note": "text", "gone": None})
    log.image("val", 5, np.zeros((2, 2)))
    log.close()
    assert seen == [
        (str(tmp_path / "tensorboard"), 5), ("loss", 1.0, 5), ("speed/frames_per_s", 2.0, 5), ("val", "HW", 5)
    ]  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"experiment\.tensorboard is true, but .*pip install tensorboard"):
        RunLog(tmp_path, tensorboard=True)


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
    log = RunLog(
        tmp_path, wandb=True, run_id="ab12", run_config={"dataset": {"path": ["/data/hospital/acdc_wds"], "size": 64}}
    )
    log.write(3, {"loss": 1.0})
    log.close()
    assert calls[0]["mode"] == "offline"
    assert (calls[0]["id"], calls[0]["resume"]) == ("ab12", "allow")
    assert calls[0]["config"] == {"dataset": {"path": ["acdc_wds"], "size": 64}}
    assert calls[1:] == [{"step": 3, "loss": 1.0}, {}]


def test_the_settings_given_to_wandb_are_ones_that_it_knows():
    wandb = pytest.importorskip("wandb")
    settings = wandb.Settings(disable_git=True, disable_code=True, x_disable_meta=True, console="off")
    assert settings.x_disable_meta
