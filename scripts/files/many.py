"""Work on many files: threads read the next files, each file prints one line, and the last line names the failures."""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from data.case import CaseRefused
from utils import ranks
from utils.config.ranges import Positive, check_options
from utils.errors import one_line
from utils.files import user_path
from utils.run.stop import sigterm_interrupts

ENDINGS = (".tmri", ".nii.gz", ".nii")  # of files that the commands write
DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "configs" / "ladder_mini"


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
    """Add the arguments that compress.py and decompress.py share."""
    add = parser.add_argument
    model = "output folder of a training run (default: the rate ladder that is part of the project)"
    add("--model", type=user_path, default=DEFAULT_MODEL, metavar="FOLDER", help=model)
    add("--force", action="store_true", help="overwrite existing files")
    add("--workers", type=int, default=1, help="number of threads that read and prepare the next files (default 1)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU if available)")
    add("--batch_frames", type=int, default=64, help="number of frames per batch (default 64)")


def check_file_arguments(args: argparse.Namespace) -> None:
    """Raise an error for values of `add_file_arguments` that are out of range."""
    check_options(args, {"workers": Positive, "batch_frames": Positive})
    if not args.model.is_dir():
        raise FileNotFoundError(f"--model {args.model}: no such folder; give the output folder of a training run")


def jobs_left(jobs: Sequence[Job], output: Path, force: bool) -> list[Job]:
    """Check the outputs before any work.

    Args:
        jobs: the files.
        output: OUT of the command, a file or a folder.
        force: whether existing files are written again.

    Returns:
        The jobs whose output does not exist, so that the same command continues an interrupted one; all with `force`.

    Raises:
        ValueError: two inputs have one output, or a single output exists and `force` is not set.
        OSError: the output cannot be written.
    """
    outputs = [job.output for job in jobs]
    twice = [path for path in outputs if outputs.count(path) > 1]
    if twice:
        raise ValueError(f"{twice[0]}: two inputs would be written to it; rename one of them")
    is_folder = output not in outputs
    if is_folder and output.name.endswith(ENDINGS) and not output.is_file():
        raise ValueError(f"OUT {output}: IN is a folder, so OUT is a folder too; give a name without file ending")
    if is_folder and output.is_file():
        raise ValueError(f"OUT {output} is a file, and IN is a folder; give a folder as OUT")
    if not is_folder and output.is_dir():
        raise ValueError(f"OUT {output} is a folder, and IN is a file; give a file name as OUT")
    existing = [path for path in outputs if path.exists()]
    if existing and not force and not is_folder:
        raise ValueError(f"OUT {output} exists; give --force to overwrite it, or another OUT")
    _check_writable(outputs[0].parent)
    if not existing or force:
        return list(jobs)
    print(
        f"{len(existing)} of {len(jobs)} files exist in {output} and are not written again. They may be of another "
        "model or other options; --force writes them again"
    )
    return [job for job in jobs if not job.output.exists()]


def _check_writable(folder: Path) -> None:
    """Create a folder, and raise an OSError that names it if no file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"OUT {folder} cannot be written ({error.strerror}); choose another folder") from error


def run_jobs(
    jobs: Sequence[Job],
    prepare: Callable[[Job], Any],
    finish: Callable[[Any, Job], str],
    workers: int,
    title: str,
    output: Path,
) -> None:
    """Prepare files in threads and finish them in order; the files are divided among the ranks.

    Args:
        jobs: the files of all ranks.
        prepare: reads a file; called in a thread.
        finish: writes the output and returns the line to print; called in the main thread.
        workers: number of threads.
        title: of the progress bar.
        output: OUT of the command, for the last line.

    Raises:
        ValueError: at the end, naming the files that failed.
    """
    own, lines, reasons = ranks.share(jobs), list[str](), dict[str, str]()
    with (
        sigterm_interrupts(),
        tqdm(total=len(own), desc=title, unit="file") as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for job, future in _ahead(pool, own, prepare, workers):
            try:
                line = finish(future.result(), job)
            except Exception as error:
                reasons[job.name] = _reason(error, job)
                line = f"failed: {reasons[job.name]}"
            if len(jobs) > 1 or not reasons:
                lines.append(f"{job.name}: {line}")
                bar.write(lines[-1])
            bar.update()
    failed = dict(ranks.gather(list(reasons.items())))
    for line in ranks.gather(lines)[len(lines) :]:  # the main rank, which prints, has the first part of the files
        print(line)
    if failed and len(jobs) == 1:
        ((name, reason),) = failed.items()
        raise ValueError(reason if reason.startswith(name) else f"{name}: {reason}")
    if len(failed) < len(jobs):
        number = f"{len(jobs) - len(failed)} of {len(jobs)} files are in {output}"
        print(f"wrote {jobs[0].output}" if len(jobs) == 1 else number)
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} files failed, see above: {', '.join(failed)}")


def _reason(error: Exception, job: Job) -> str:
    """Return why a file failed, without its name in front."""
    if isinstance(error, CaseRefused):
        return error.message
    if not isinstance(error, ValueError | OSError):
        return f"{type(error).__name__}: {error}"
    return (one_line(error) or str(error)).removeprefix(f"{job.name}: ")


def _ahead(
    pool: ThreadPoolExecutor, jobs: Sequence[Job], prepare: Callable[[Job], Any], workers: int
) -> Iterator[tuple[Job, Future[Any]]]:
    """Yield the jobs in order with their futures; beside the current file, at most `workers` files are in memory."""
    waiting: deque[tuple[Job, Future[Any]]] = deque()
    for job in jobs:
        waiting.append((job, pool.submit(prepare, job)))
        if len(waiting) > workers:
            yield waiting.popleft()
    yield from waiting
