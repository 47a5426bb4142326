"""run.json of an output folder: the id of a run, and software and code of each of its starts."""

import platform
import subprocess
import uuid
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.files import read_json, write_json

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "webdataset", "nibabel", "timm", "safetensors")


def record_start(folder: Path, step: int, device: str, ranks: int) -> dict[str, Any]:
    """Add a start to run.json, without paths or names of persons and machines.

    Args:
        folder: the run's output folder.
        step: optimizer steps that are done.
        device: type of the device.
        ranks: number of processes.
    Returns:
        The content of run.json: `run_id`, which Weights & Biases continues by, and `starts`.
    """
    path = folder / "run.json"
    record: dict[str, Any] = {"run_id": uuid.uuid4().hex[:8], "starts": []}
    if step and path.is_file():
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("starts"), list) or "run_id" not in record:
            raise ValueError(f"{path}: expected the id and the starts of a run; remove this file")
    record["starts"].append(
        {"step": step, "device": device, "ranks": ranks, "code": code_state(), "versions": versions()}
    )
    write_json(path, record)
    return record


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a result depends on."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def code_state() -> dict[str, Any] | None:
    """Return the commit of the code and whether tracked files differ from it; None outside a git repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
