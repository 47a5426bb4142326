"""Many files, one after another: reading ahead in threads, one line a file, failures named at the end."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm


class Job(NamedTuple):
    """One file.

    Args:
        name: for messages.
        read: reads the input.
        output: the file to write.
    """

    name: str
    read: Callable[[], Any]
    output: Path


def add_file_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of every command that works on files with a model."""
    add = parser.add_argument
    add("--model", type=Path, required=True, metavar="FOLDER", help="output folder of a training run")
    add("--force", action="store_true", help="overwrite existing files")
    add("--workers", type=int, default=1, help="threads that read and prepare files ahead (default 1)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU where there is one)")
    add("--batch_frames", type=int, default=64, help="frames the model takes at a time (default 64)")


def check_outputs(jobs: Sequence[Job], force: bool) -> None:
    """Refuse to overwrite files, and two inputs with one output, before any work.

    Raises:
        ValueError: naming the first such file.
    """
    outputs = [job.output for job in jobs]
    twice = [path for path in outputs if outputs.count(path) > 1]
    if twice:
        raise ValueError(f"{twice[0]}: two inputs would be written to it; rename one of them")
    existing = [path for path in outputs if path.exists()]
    if existing and not force:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise ValueError(f"{existing[0]}{more}: exists already; give --force to overwrite, or another OUT")


def run_jobs(
    jobs: Sequence[Job],
    prepare: Callable[[Job], Any],
    finish: Callable[[Any, Job], str],
    workers: int,
    title: str,
    output: Path,
) -> None:
    """Prepare files in threads and finish them in order.

    Args:
        jobs: the files.
        prepare: reads a file; runs in a thread.
        finish: writes the output and returns a line about it; runs here.
        workers: threads, 1 or more.
        title: of the progress bar.
        output: where the files went, for the last line.

    Raises:
        ValueError: at the end, naming the files that failed; or for a number of workers below 1.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}, expected 1 or more")
    failed: list[str] = []
    with tqdm(total=len(jobs), desc=title, unit="file") as bar, ThreadPoolExecutor(workers) as pool:
        for job, future in _ahead(pool, jobs, prepare, workers):
            try:
                line = finish(future.result(), job)
            except Exception as error:
                reason = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
                failed.append(f"{job.name} ({reason})")
                line = f"failed: {reason}"
            bar.write(f"{job.name}: {line}")
            bar.update()
    print(f"{len(jobs) - len(failed)} of {len(jobs)} files are in {output}")
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} files failed: {'; '.join(failed)}")


def _ahead(
    pool: ThreadPoolExecutor, jobs: Sequence[Job], prepare: Callable[[Job], Any], workers: int
) -> Iterator[tuple[Job, Future[Any]]]:
    """Jobs in order with what is read of them; no more than `workers` files are held beside the one in work."""
    waiting: deque[tuple[Job, Future[Any]]] = deque()
    for job in jobs:
        waiting.append((job, pool.submit(prepare, job)))
        if len(waiting) > workers:
            yield waiting.popleft()
    yield from waiting
