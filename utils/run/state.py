"""The state of a run for resuming it: `checkpoints/step_N/state.pth`, checked when it is written and when it is read.

OUTPUT/checkpoints/step_200/state.pth     weights, EMA, optimizer, sums of the log, position
OUTPUT/checkpoints/damaged_step_300/      a damaged checkpoint, which is not read
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from utils.checkpoint import check_archive, disk_errors, load_archive, tensor_bytes
from utils.files import atomic_dir, sweep
from utils.run.launch import process_state
from utils.run.lock import Lock

PARTS = ("checkpoints", "samples", "best")  # folders of an output folder
STEP = re.compile(r"step_([0-9]+)")


def save_training(
    folder: str | Path, step: int, payload: dict[str, Any], keep_last: int = 2, keep_every: int = 0
) -> Path:
    """Write the state of a run, read it back, and remove old states.

    Args:
        folder: the run's output folder.
        step: optimizer steps done.
        payload: tensors and plain values only, since it is read with `weights_only=True`.
        keep_last: number of newest states to keep, including this one.
        keep_every: states at multiples of this step are kept too; 0 for none.
    Returns:
        The folder of the state.
    Raises:
        OSError: naming the file and the space that it needs, when it cannot be written; earlier states are kept.
    """
    target = Path(folder) / "checkpoints" / f"step_{step}"
    with disk_errors(target, tensor_bytes(payload)), atomic_dir(target) as temporary:
        torch.save(payload, temporary / "state.pth")
        check_archive(temporary / "state.pth")  # older states are removed only if the new state can be read
    others = [path for path in _states(folder) if path != target]
    for path in others[: max(0, len(others) - (keep_last - 1))]:
        if not keep_every or _step(path) % keep_every:
            shutil.rmtree(path)
    return target


@contextmanager
def one_run(folder: Path) -> Iterator[dict[str, Any] | None]:
    """Lock an output folder, remove incomplete files of a killed process, and read the newest undamaged state.

    The main rank does this, and all ranks begin with its result.

    Args:
        folder: the run's output folder; it is removed at the end if nothing was written.
    Returns:
        A context manager with the payload of `save_training`, or None for a new run.
    Raises:
        ValueError: on the main rank, when another process uses the folder or all states are damaged.
        OSError: on the main rank, when the folder cannot be used.
        SystemExit: on the other ranks in these cases.
    """
    main = process_state().is_main_process
    with ExitStack() as stack:
        result: list[Any] = [None, None]  # folder of the state, and the error
        problem: ValueError | OSError | None = None
        newest: tuple[Path, dict[str, Any]] | None = None
        if main:
            try:
                stack.enter_context(Lock(folder))
                for name in sweep_run(folder):
                    print(f"note: removed {folder}/.../{name}, which a killed run was writing")
                newest = newest_training(folder, lambda line: print(f"note: {line}"))
                result[0] = None if newest is None else str(newest[0])
            except (ValueError, OSError) as error:
                problem, result[1] = error, str(error)
        if process_state().num_processes > 1:
            broadcast_object_list(result)
        if problem is not None:
            raise problem
        if result[1] is not None:
            raise SystemExit(1)
        if newest is None and result[0] is not None:  # another rank
            newest = Path(result[0]), load_archive(Path(result[0]) / "state.pth")
        yield None if newest is None else newest[1]


def newest_training(folder: str | Path, report: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """Read the newest state of a run that is not damaged; damaged ones that are newer are renamed.

    Args:
        folder: the run's output folder.
        report: called with a line about each damaged state.
    Returns:
        The folder and the payload of `save_training`, tensors on the CPU; None if the run has no state yet.
    Raises:
        ValueError: if all states are damaged.
    """
    states, damaged = _states(folder), dict[Path, ValueError]()
    for path in reversed(states):
        try:
            payload: dict[str, Any] = load_archive(path / "state.pth")
        except ValueError as error:
            damaged[path] = error
            continue
        for other, error in damaged.items():
            aside = other.with_name(f"damaged_{other.name}")
            shutil.rmtree(aside, ignore_errors=True)
            other.rename(aside)
            report(f"{error}; it is now {aside.name}, and {path.name} is used")
        return path, payload
    if states:
        raise ValueError(
            f"{Path(folder) / 'checkpoints'}: all {len(states)} checkpoints are damaged ({damaged[states[-1]]}); give "
            "another experiment.output_dir, with experiment.init_weight if a checkpoint_last.pth exists"
        )
    return None


def sweep_run(folder: str | Path) -> list[str]:
    """Remove incomplete files of a killed process from an output folder, and return their names."""
    folder = Path(folder)
    return [name for part in (folder, *(folder / part for part in PARTS)) for name in sweep(part)]


def _states(folder: str | Path) -> list[Path]:
    folders = [path.parent for path in (Path(folder) / "checkpoints").glob("step_*/state.pth")]
    return sorted((path for path in folders if STEP.fullmatch(path.name)), key=_step)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
