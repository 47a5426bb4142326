"""Loading processes: batches come through shared memory, or through pipes where shared memory is small."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.queues
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data.loading.dataset import Sample
from utils.types import Batch

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2  # batches that each loading process prepares
STALLED_SECONDS = 1800.0  # a batch that takes longer ends the run


class Loader:
    """A source of batches, made in this process or in loading processes.

    Loading processes ignore SIGINT and SIGTERM, which queues and terminals send to all processes of a run: the trainer
    finishes its step first, and the loading processes end with it.

    Args:
        dataset: a dataset of samples, or of lists of samples with `batch_size=None`.
        collate: makes a batch of a list of samples.
        workers: number of loading processes; 0 loads in this process.
        batch_bytes: largest size of a batch, in bytes.
        options: further options of torch's DataLoader.
    Attributes:
        note: a line for the user if batches are sent through pipes, else None.
    """

    def __init__(
        self, dataset: Any, collate: Callable[[list[Sample]], Batch], workers: int, batch_bytes: int, **options: Any
    ) -> None:
        self.pinned = torch.cuda.is_available()
        self.note = note_of_pipes(workers, batch_bytes)
        self.loader: DataLoader[Any] = DataLoader(
            dataset,
            num_workers=workers,
            collate_fn=collate if self.note is None else Arrays(collate),
            pin_memory=self.pinned and self.note is None,
            worker_init_fn=start_process,
            timeout=STALLED_SECONDS if workers else 0,
            **options,
        )

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            yield batch if self.note is None else self._tensors(batch)

    def _tensors(self, batch: Batch) -> Batch:
        """Return the batch with tensors in place of its arrays."""
        fields: dict[str, Any] = batch._asdict()
        tensors = {name: torch.from_numpy(value) for name, value in fields.items() if isinstance(value, np.ndarray)}
        pinned = {name: value.pin_memory() for name, value in tensors.items()} if self.pinned else tensors
        return Batch(**fields | pinned)


class Arrays:
    """Collates to numpy arrays: a loading process sends them through its pipe, and tensors through shared memory."""

    def __init__(self, collate: Callable[[list[Sample]], Batch]) -> None:
        self.collate = collate

    def __call__(self, samples: list[Sample]) -> Batch:
        """Return a batch with arrays in place of its tensors."""
        fields: dict[str, Any] = self.collate(samples)._asdict()
        arrays = {name: value.numpy() for name, value in fields.items() if isinstance(value, torch.Tensor)}
        return Batch(**fields | arrays)


def note_of_pipes(workers: int, batch_bytes: int) -> str | None:
    """Return a line for the user if shared memory is too small for the batches on their way, else None.

    Args:
        workers: number of loading processes of this rank.
        batch_bytes: largest size of a batch, in bytes.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return None
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed, free = (workers * PREFETCHED + 2) * batch_bytes * ranks, shutil.disk_usage(SHARED_MEMORY).free
    if needed <= free:
        return None
    return (
        f"shared memory ({SHARED_MEMORY}) has {free / 2**20:.0f} MiB free, and batches may need "
        f"{needed / 2**20:.0f} MiB: they are sent through pipes instead, which takes more time; give a container more "
        "shared memory (docker run --shm-size=8g), or use fewer loading processes (dataset.workers, --workers)"
    )


def start_process(worker: int) -> None:
    """Prepare a loading process: it ignores signals to all processes of a run, and ends if it cannot send a batch."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # Python prints an error of the thread that sends, such as full shared memory, and goes on: the trainer would wait.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_cannot_send)  # type: ignore[attr-defined]


@atexit.register
def _end_processes() -> None:
    """End loading processes that are left at the end of the program; Python alone would wait for them for ever."""
    left = [process for process in multiprocessing.active_children() if process.daemon]
    if left:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch reports the end of a loading process as an error
    for process in left:
        process.kill()


def _cannot_send(error: Exception, batch: object) -> None:
    os._exit(1)
