"""Output of a run: curves in `log.jsonl`, pictures in `samples/`; beside them Weights & Biases and TensorBoard."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.files import atomic_path, jsonable, named


class RunLog:
    """The log of a run; it does nothing on ranks where it is not enabled."""

    def __init__(
        self,
        folder: str | Path,
        enabled: bool = True,
        start: int = 0,
        wandb: bool = False,
        tensorboard: bool = False,
        run_config: dict[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        """Open the log; lines of steps after the start of a resumed run are removed, since they come again.

        Args:
            folder: the run's output folder.
            enabled: whether this process writes; true on the main rank only.
            start: optimizer steps that are done.
            wandb: whether to log to Weights & Biases too; offline unless WANDB_MODE sets another mode.
            tensorboard: whether to log to TensorBoard too, in `tensorboard/`.
            run_config: the run's config, for wandb; only the last part of absolute paths is kept.
            run_id: id of the run at Weights & Biases; a resumed run continues it.
        Raises:
            ValueError: if a package that is asked for is not installed, or the log cannot be read.
        """
        self.folder, self.enabled = Path(folder), enabled
        self.path = self.folder / "log.jsonl"
        self._run: Any = _start_wandb(self.folder, run_config or {}, run_id) if enabled and wandb else None
        self._board: Any = _start_tensorboard(self.folder, start) if enabled and tensorboard else None
        if enabled:
            self.folder.mkdir(parents=True, exist_ok=True)
            keep_until(self.path, start)
            self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Add one line of JSON.

        Args:
            step: optimizer steps done.
            values: numbers and short texts by name, never a source path; NaN and infinities become null.
        """
        if not self.enabled:
            return
        line = jsonable({"step": step, **values})
        try:
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise named(error, self.path) from error
        if self._run is not None:
            self._run.log(line, step=step)
        if self._board is not None:
            for name, value in line.items():
                numbers = value.items() if isinstance(value, dict) else [("", value)]
                for part, number in numbers:
                    if isinstance(number, int | float) and name != "step":
                        self._board.add_scalar(f"{name}/{part}" if part else name, number, step)

    def sync(self) -> None:
        """Return when all lines are on disk; call it before a checkpoint is written."""
        if self.enabled:
            os.fsync(self._file.fileno())

    def image(self, name: str, step: int, array: np.ndarray) -> None:
        """Save a picture as `samples/NAME_STEP.png`.

        Args:
            name: letters, digits, `_` and `-`.
            step: optimizer steps done.
            array: (H, W) or (H, W, 3), float in [0, 1] or uint8.
        Raises:
            ValueError: for other characters, since the name becomes part of a path.
        """
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"picture name {name!r}: expected letters, digits, _ and - only")
        if not self.enabled:
            return
        if array.dtype != np.uint8:
            array = np.round(np.clip(array, 0.0, 1.0) * 255.0).astype(np.uint8)
        with atomic_path(self.folder / "samples" / f"{name}_{step:07d}.png") as path:
            Image.fromarray(array).save(path)
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Image(array)}, step=step)
        if self._board is not None:
            self._board.add_image(name, array, step, dataformats="HW" if array.ndim == 2 else "HWC")

    def close(self) -> None:
        """Close the log; nothing can be written after it."""
        if self.enabled:
            self._file.close()
            self.enabled = False
        if self._run is not None:
            self._run.finish()
        if self._board is not None:
            self._board.close()


def keep_until(path: Path, step: int) -> None:
    """Remove the lines of a log after a step, and an incomplete last line; all lines for step 0.

    Args:
        path: the log; nothing is done if it does not exist.
        step: optimizer steps that are done.
    Raises:
        ValueError: naming the file and line, if another line is not one of a log.
    """
    if not path.is_file():
        return
    lines, kept = path.read_bytes().splitlines(keepends=True), []
    for number, line in enumerate(lines, 1):
        try:
            at = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                continue  # a process was killed while it wrote
            raise ValueError(f"{path}: line {number} is no line of a log; correct or remove it") from None
        if step > 0 and at <= step and line.endswith(b"\n"):
            kept.append(line)
    if kept != lines:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(kept))


def _start_wandb(folder: Path, run_config: dict[str, Any], run_id: str | None) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    # By default wandb records host, command line, code and repository; this is switched off.
    settings = wandb.Settings(disable_git=True, disable_code=True, x_disable_meta=True, console="off")
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    return wandb.init(
        project="titok-mri",
        name=folder.name,
        dir=folder,
        mode=mode,
        config=_without_folders(run_config),
        settings=settings,
        id=run_id,
        resume=None if run_id is None else "allow",
    )


def _start_tensorboard(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "experiment.tensorboard is true, but the package is missing: pip install tensorboard"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
