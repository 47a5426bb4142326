"""Output of a run: curves in `log.jsonl`, pictures in `samples/`, and one-line errors."""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.files import atomic_path, jsonable

TRACEBACK_VARIABLE = "TITOK_MRI_TRACEBACK"


class RunLog:
    """The log of a run; it does nothing on ranks where it is not enabled."""

    def __init__(
        self, folder: str | Path, enabled: bool = True, wandb: bool = False, run_config: dict[str, Any] | None = None
    ) -> None:
        """Open the log; a resumed run appends to it.

        Args:
            folder: the run's output folder.
            enabled: whether this process writes; true on the main rank only.
            wandb: whether to log to Weights & Biases too; offline unless WANDB_MODE sets another mode.
            run_config: the run's config, for wandb; only the last part of absolute paths is kept.
        """
        self.folder, self.enabled = Path(folder), enabled
        self._run: Any = _start_wandb(self.folder, run_config or {}) if enabled and wandb else None
        if enabled:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / "log.jsonl").open("a", encoding="utf-8")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Add one line of JSON.

        Args:
            step: optimizer steps done.
            values: numbers and short texts by name, never a source path; NaN and infinities become null.
        """
        if not self.enabled:
            return
        line = jsonable({"step": step, **values})
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if self._run is not None:
            self._run.log(line, step=step)

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

    def close(self) -> None:
        """Close the log; nothing can be written after it."""
        if self.enabled:
            self._file.close()
            self.enabled = False
        if self._run is not None:
            self._run.finish()


@contextmanager
def user_errors() -> Iterator[None]:
    """Report user errors as one line on stderr, with exit code 1; for Ctrl-C, the exit code is 130.

    Used as `with user_errors():` or, above a function, as `@user_errors()`. Set TITOK_MRI_TRACEBACK=1 to see where the
    error was raised.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print("interrupted: files that were written are complete; repeat the command to go on", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        if loading := re.match(r"Caught (\w+) in DataLoader worker process", text):  # then comes its traceback
            text = text.rpartition(f"\n{loading[1]}: ")[2]
        print(f"error: {' '.join(text.split()) or type(error).__name__}", file=sys.stderr)
        raise SystemExit(1) from None


def _start_wandb(folder: Path, run_config: dict[str, Any]) -> Any:
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
    )


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
