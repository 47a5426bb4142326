"""A run that is killed, stopped, or goes wrong keeps what is good, says why in one line, and goes on as if uncut."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.objective import Objective
from tests.tiny import REPOSITORY
from tests.training import STAGE1, curve, log_lines, train
from utils.files import read_json

KILLS = int(os.environ.get("TITOK_MRI_KILLS", "3"))
STEPS = ("training.max_steps=24", "training.log_every=4", "training.checkpoint_every=3", "training.preview_every=12")
SCRIPT = str(REPOSITORY / "scripts" / "train_mri_titok.py")
ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, phantom_shards: Path) -> Path:
    """A folder with the recipe of a stage 1, and with an uncut run of it, `whole`."""
    folder = tmp_path_factory.mktemp("interruptions")
    (folder / "stage1.yaml").write_text(STAGE1)
    done = train(folder, "stage1", phantom_shards, "whole", *STEPS)
    assert done.returncode == 0, done.stderr
    return folder


def start(place: Path, shards: Path, output: str, *more: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start the training script in processes of its own."""
    command = [sys.executable, *launcher, SCRIPT, "config=stage1.yaml", f"dataset.shards={shards}",
               f"experiment.output_dir={output}", *STEPS, *more]  # fmt: skip
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=place, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    """Wait until something is so; fail when the process ends before."""
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the run ended before {what}: {process.communicate()}"
        assert time.monotonic() < limit, f"no {what}"
        time.sleep(0.01)


def steps_logged(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.read_text().count('"loss"') if log.is_file() else 0


def assert_same_weights(folder: Path) -> None:
    whole, again = (load_file(path / "model.safetensors") for path in (folder.parent / "whole", folder))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def assert_equal_to_the_uncut_run(folder: Path) -> None:
    assert_same_weights(folder)
    assert log_lines(folder) == log_lines(folder.parent / "whole")


def test_a_run_killed_at_random_moments_ends_with_the_weights_and_log_of_an_uncut_one(
    place: Path, phantom_shards: Path
) -> None:
    moments, output = random.Random(0), place / "killed_0"
    for kill in range(KILLS):
        process = start(place, phantom_shards, output.name)
        assert process.stdout is not None
        assert any("output in" in line for line in process.stdout), process.communicate()  # the first step is next
        time.sleep(moments.random() * 0.6)
        process.kill()
        process.communicate()
        if (output / "checkpoint_last.pth").exists():  # it was faster
            assert_equal_to_the_uncut_run(output)
            output = place / f"killed_{kill + 1}"
    done = train(place, "stage1", phantom_shards, output.name, *STEPS)
    assert done.returncode == 0, done.stderr
    assert_equal_to_the_uncut_run(output)
    assert not [path for path in output.rglob(".*") if path.name != ".lock"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_and_writes_a_checkpoint(
    place: Path, phantom_shards: Path, number: signal.Signals, status: int
) -> None:
    output = place / f"signal_{number.name}"
    process = start(place, phantom_shards, output.name, "training.checkpoint_every=100", "dataset.workers=1")
    wait_for(lambda: steps_logged(output) >= 1, process, "first line")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert f"{number.name}: this step is finished and a checkpoint is written" in err and "Traceback" not in err
    step = int(out.rpartition("stopped after step ")[2].split()[0])
    assert (output / "checkpoints" / f"step_{step}").is_dir() and not (output / "model.safetensors").exists()
    done = train(place, "stage1", phantom_shards, output.name, *STEPS)
    assert done.returncode == 0 and f"step {step} of 24" in done.stdout, done.stderr
    assert_equal_to_the_uncut_run(output)


def test_one_run_uses_a_folder_at_a_time(place: Path, phantom_shards: Path) -> None:
    hold = (
        "import sys; from pathlib import Path; from utils.run.lock import Lock; lock = Lock(Path(sys.argv[1])); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(place / "locked")],
        cwd=REPOSITORY, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: bool((place / "locked" / ".lock").exists()), other, "lock")
    wait_for(lambda: "process" in (place / "locked" / ".lock").read_text(), other, "holder")
    done = train(place, "stage1", phantom_shards, "locked", *STEPS)
    assert done.returncode == 1
    assert f"locked: another process (process {other.pid} on " in done.stderr and "wait until it ends" in done.stderr
    other.communicate("\n")
    assert sorted(path.name for path in (place / "locked").iterdir()) == [".lock"]


def test_what_is_not_finite_is_never_saved_and_names_step_loss_and_samples(
    place: Path, phantom_shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Objective.forward

    def poisoned(self, prediction, batch):
        sums = forward(self, prediction, batch)
        return torch.cat([sums[:1] * float("nan"), sums[1:]]) if prediction.step == 6 else sums

    monkeypatch.setattr(Objective, "forward", poisoned)
    often = ("training.checkpoint_every=2", "training.log_every=50")  # the log alone would see it far too late
    done = train(place, "stage1", phantom_shards, "poisoned", *STEPS, *often)
    monkeypatch.undo()
    assert done.returncode == 1 and "losses.reconstruction is nan at step 7, samples patient" in done.stderr
    kept = sorted(path.name for path in (place / "poisoned" / "checkpoints").iterdir())
    assert kept == ["step_4", "step_6"] and not (place / "poisoned" / "model.safetensors").exists()
    again = train(place, "stage1", phantom_shards, "poisoned", *STEPS, *often)
    assert again.returncode == 0 and "step 6 of 24" in again.stdout
    assert_same_weights(place / "poisoned")


def test_latents_that_are_not_finite_name_the_step_of_k_means(place: Path, phantom_shards: Path) -> None:
    more = ("optimizer.learning_rate=1e9", "optimizer.warmup_steps=0", "training.log_every=50",
            "training.checkpoint_every=50")  # fmt: skip
    done = train(place, "stage1", phantom_shards, "exploded", *STEPS, *more)
    assert done.returncode == 1 and "the latents are not finite at step 2, where k-means" in done.stderr


def test_another_number_of_steps_says_what_happens_to_the_schedule(place: Path, phantom_shards: Path) -> None:
    few = ("training.max_steps=4", "training.checkpoint_every=2", "training.log_every=2", "training.preview_every=2")
    best = ("training.best_by=val_psnr",)
    assert train(place, "stage1", phantom_shards, "longer", *few, *best).returncode == 0
    done = train(place, "stage1", phantom_shards, "longer", *few, *best, "training.max_steps=6")
    assert done.returncode == 0, done.stderr
    assert "training.max_steps was 4 and is 6: from here on the learning rate follows" in done.stdout
    assert "at step 3 it is " in done.stdout
    exported = read_json(place / "longer" / "config.json")
    fewer = train(place, "stage1", phantom_shards, "longer", *few, *best)
    assert sum(exported["token_counts"]) and read_json(place / "longer" / "config.json") == exported
    assert fewer.returncode == 0 and "the run has 6 steps already, more than training.max_steps 4" in fewer.stdout
    assert len(curve(place / "longer", "val_psnr")) == 3 and len(curve(place / "longer")) == 3
    assert {path.name for path in (place / "longer" / "best").iterdir()} >= {"config.json", "model.safetensors"}
    best_record = read_json(place / "longer" / "best" / "config.json")["training_record"]
    assert best_record["steps"] > 2  # earlier previews had no tokens


def test_a_rank_that_dies_ends_the_others_with_one_line(place: Path, phantom_shards: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29631")
    process = start(place, phantom_shards, "ranks", "training.max_steps=100000", launcher=launcher)
    wait_for(lambda: steps_logged(place / "ranks") >= 1, process, "first line")
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    second = next(int(pid) for pid in children.split() if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
    os.kill(second, signal.SIGKILL)
    _, err = process.communicate(timeout=90)
    assert process.returncode != 0
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert len(lines) <= 1 and all("another rank ended" in line for line in lines)
    assert "exitcode  : -9" in err or "exitcode: -9" in err  # torchrun names the rank that died first


def test_a_trainer_whose_launcher_is_killed_writes_a_checkpoint_and_ends(place: Path, phantom_shards: Path) -> None:
    launcher = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1")
    more = ("training.max_steps=100000", "training.checkpoint_every=50000")
    process = start(place, phantom_shards, "orphan", *more, launcher=launcher)
    wait_for(lambda: steps_logged(place / "orphan") >= 1, process, "first line")
    process.kill()
    out, err = process.communicate(timeout=60)  # the pipes close when the trainer has ended
    assert "the launcher has ended: this step is finished" in err and "stopped after step" in out
    assert len(list((place / "orphan" / "checkpoints").glob("step_*"))) == 1
