"""Loading processes: their batches are those of this process, and their end is the end of the run."""

import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from data.loading import processes
from data.loading.dataset import CineDataset
from data.loading.loader import collate
from data.loading.processes import Loader
from tests.tiny import REPOSITORY
from utils.errors import user_errors


class Numbers(torch.utils.data.Dataset):
    """Stands for a dataset of samples: number i is a list of one tensor."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int):
        return index


class Dies(Numbers):
    def __getitem__(self, index: int):
        os.kill(os.getpid(), signal.SIGKILL)


class Signalled(Numbers):
    def __getitem__(self, index: int):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return index


def together(samples: list[int]):
    return samples


def test_a_loading_process_that_is_killed_ends_the_run_with_one_line(capsys, monkeypatch) -> None:
    monkeypatch.delenv("TITOK_MRI_TRACEBACK", raising=False)
    with pytest.raises(SystemExit), user_errors():
        list(Loader(Dies(), together, 1, 0, batch_size=2))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a loading process ended" in said and "lower dataset.workers" in said


def test_a_signal_to_all_processes_of_a_run_does_not_end_a_loading_process() -> None:
    assert list(Loader(Signalled(), together, 1, 0, batch_size=2)) == [[0, 1], [2, 3], [4, 5]]


def test_batches_are_equal_through_shared_memory_and_through_pipes(shards: Path, monkeypatch) -> None:
    dataset = CineDataset(shards, "train", "slice", 32, "crop", 2)
    order = [[(0, 0), (0, 1)], [(0, 2), (0, 3)]]
    usual = Loader(dataset, collate, 1, dataset.sample_bytes * 2, batch_sampler=order)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: types.SimpleNamespace(free=1000))
    monkeypatch.setattr(torch.multiprocessing.reductions, "reduce_storage", None)  # shared memory cannot be used
    piped = Loader(dataset, collate, 1, dataset.sample_bytes * 2, batch_sampler=order)
    assert usual.note is None and piped.note is not None and "are sent through pipes" in piped.note
    found = list(piped)
    monkeypatch.undo()
    for expected, batch in zip(usual, found, strict=True):
        for name, value in expected._asdict().items():
            other = getattr(batch, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


@pytest.mark.parametrize(("free", "noted"), [(1199, True), (1200, False)])
def test_the_need_for_shared_memory_counts_batches_of_all_processes_and_ranks(free, noted, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: types.SimpleNamespace(free=free))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (processes.note_of_pipes(workers=2, batch_bytes=100) is not None) == noted
    assert processes.note_of_pipes(workers=0, batch_bytes=100) is None


@pytest.mark.parametrize(("unit", "phases"), [("frame", None), ("slice", 3), ("stack", 3)])
def test_a_sample_is_at_most_as_large_as_its_estimate(shards: Path, unit: str, phases: int | None) -> None:
    dataset = CineDataset(shards, "train", unit, 32, "crop", phases)
    large = [array.nbytes for array in dataset[0, 0].arrays.values() if array.ndim > 2]
    assert large and sum(large) <= dataset.sample_bytes


LEFT = """
from data.loading.processes import Loader
batches = iter(Loader(range(8), list, 2, 0, batch_size=2))
print(next(batches))
cycle = [batches]
cycle.append(cycle)
"""


def test_a_program_that_leaves_its_loading_processes_behind_still_ends() -> None:
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", LEFT]  # torch warns on a machine with one core
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1]\n", "")


SMALL = """
import sys
import torch
from data.loading import processes
from utils.errors import user_errors
from utils.types import Batch

class Large(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((1 << 18,), float(index))

def together(samples):
    return Batch(torch.stack(samples), *[None] * 11)

if sys.argv[1] == "filled later":
    processes.note_of_pipes = lambda workers, batch_bytes: None
with user_errors():
    loader = processes.Loader(Large(), together, 1, 1 << 21, batch_size=2)
    print("pipes" if loader.note else "shared")
    print(*(int(batch.image.sum()) >> 18 for batch in loader))
"""


@pytest.mark.parametrize("when", ["filled later", "small"])
def test_a_small_shared_memory_never_lets_a_run_wait_for_ever(when: str) -> None:
    mount = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this system does not let a user mount a small /dev/shm")
    command = ["unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", SMALL, when]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    if when == "small":
        assert done.returncode == 0 and done.stdout.split() == ["pipes", "1", "5", "9", "13"], done.stderr
    else:
        assert done.returncode == 1 and done.stdout == "shared\n"
        assert done.stderr.count("\n") == 1 and "error: a loading process ended" in done.stderr
