"""Weights on disk: written completely or not at all, read without executing code from a file."""

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.files import atomic_dir, atomic_path, read_json, write_json

State = dict[str, Tensor]
SCHEMA_VERSION = 1  # of config.json


def export(folder: str | Path, config: dict[str, Any], state: State, dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`, each whole or not at all.

    Args:
        folder: made where it does not exist.
        config: plain values.
        state: the weights by name.
        dtype: of the written weights; as they are when not given.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(_on_cpu(state, dtype), temporary, metadata={"format": "pt"})


def save_checkpoint(path: str | Path, config: dict[str, Any], state: State) -> None:
    """Write weights and the resolved config of a run as one file, whole or not at all, for `load_weights`."""
    with atomic_path(Path(path)) as temporary:
        torch.save({"config": config, "model": _on_cpu(state)}, temporary)


def _on_cpu(state: State, dtype: torch.dtype | None = None) -> State:
    return {name: tensor.detach().to("cpu", dtype, copy=True).contiguous() for name, tensor in state.items()}


def load_weights(path: str | Path) -> tuple[State, dict[str, Any] | None]:
    """Read weights, and their config if it exists.

    Args:
        path: a `.safetensors` file; a folder of `model.safetensors` and `config.json`; or a `torch.save` file that
            holds {"model": weights, "config": plain values} or the weights alone.
    Returns:
        The weights on the CPU, and the config or None.
    Raises:
        FileNotFoundError: naming the file that is missing.
        ValueError: naming the file, if it is incomplete, damaged, or holds more than weights.
    """
    path = Path(path)
    if path.is_dir():
        config = read_config(path / "config.json")
        return _load_safetensors(path / "model.safetensors"), config
    if path.suffix == ".safetensors":
        return _load_safetensors(path), None
    data = _load_torch(path)
    wrapped = isinstance(data, dict) and isinstance(data.get("model"), dict)
    state, config = (data["model"], data.get("config")) if wrapped else (data, None)
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f'{path}: expected a state dict, or {{"model": ..., "config": ...}}, found {_describe(data)}')
    check_values(state, path)
    return state, config


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: naming the file, if it is not an object, or has another schema version.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected the config of a model, found {config!s:.80}")
    version = config.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ValueError(
            f"{path}: schema_version is {version!r:.80}, but this code reads {SCHEMA_VERSION}; update the code"
        )
    return config


def check_values(state: State, where: str | Path) -> None:
    """Raise ValueError for weights that are not finite floating-point numbers, naming the first."""
    for name, value in state.items():
        if value.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
            raise ValueError(f"{where}: {name} is {value.dtype}, expected floating-point weights; export them again")
        if not value.isfinite().all():
            raise ValueError(f"{where}: {name} holds NaN or infinity; use an earlier checkpoint or export it again")


def hash_weights(state: State) -> str:
    """blake2b over names, types, shapes and values, in the order of the names."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def start_from(module: nn.Module, state: State, source: str) -> list[str]:
    """Load the weights of another run, one component (`tokenizer`, `dit`, ...) at a time.

    Args:
        module: the model; the first dotted part of a state-dict key is its component, of a ladder the first two.
        state: the weights; components that the model does not have are ignored.
        source: origin of the weights, for error messages.
    Returns:
        The components that the file does not have, which keep their initial weights.
    Raises:
        ValueError: naming the component, if its keys or shapes differ, or if the file has no component.
    """
    expected, given = _by_component(module.state_dict()), _by_component(state)
    shared = [component for component in expected if component in given]
    if not shared:
        raise ValueError(
            f"{source}: holds none of the model's components ({', '.join(expected)}), found {_first(given)}; "
            "give a checkpoint of this project"
        )
    for component in shared:
        check_keys(expected[component], given[component], f"{source}: component {component}")
    module.load_state_dict(
        {key: value for component in shared for key, value in given[component].items()}, strict=False
    )
    return [component for component in expected if component not in given]


def check_keys(expected: State, state: State, source: str) -> None:
    """Refuse weights whose keys or shapes are not those of a model, naming the first few that differ.

    Args:
        expected: the model's state dict, which may stand on the meta device.
        state: the weights.
        source: where they come from, for error messages.

    Raises:
        ValueError: saying which keys are missing, unknown or of another shape.
    """
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    groups = {
        "missing keys": [key for key in expected if key not in state],
        "unknown keys": [key for key in state if key not in expected],
        "other shapes": shapes,
    }
    problems = [f"{what}: {_first(keys)}" for what, keys in groups.items() if keys]
    if problems:
        raise ValueError(f"{source}: {'; '.join(problems)}; use the config that the weights were trained with")


def save_training(folder: str | Path, step: int, payload: dict[str, Any], keep: int = 2) -> Path:
    """Write the state for resuming a run, as `checkpoints/step_N/state.pth`, and remove the oldest such folders.

    Args:
        folder: the run's output folder.
        step: optimizer steps done.
        payload: tensors and plain values only, since it is read with `weights_only=True`.
        keep: number of newest checkpoints to keep, including this one.
    Returns:
        The checkpoint's folder.
    """
    target = Path(folder) / "checkpoints" / f"step_{step}"
    with atomic_dir(target) as temporary:
        torch.save(payload, temporary / "state.pth")
    others = [path for path in _training_folders(folder) if path != target]
    for path in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(path)
    return target


def latest_training(folder: str | Path) -> Path | None:
    """Return the folder of a run's newest training checkpoint, or None if it has none."""
    folders = _training_folders(folder)
    return folders[-1] if folders else None


def load_training(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint.

    Args:
        path: its folder, as returned by `latest_training`.
    Returns:
        The payload of `save_training`, tensors on the CPU.
    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming the file, if it cannot be read.
    """
    try:
        return _load_torch(Path(path) / "state.pth")
    except ValueError:
        raise ValueError(
            f"{path}: not a complete training checkpoint; remove this folder to continue from the previous one"
        ) from None


def _load_safetensors(path: Path) -> State:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error}); write or download it again") from None
    check_values(state, path)
    return state


def _load_torch(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds: UnpicklingError, RuntimeError, EOFError, KeyError ...
        if "Unsupported global" in str(error) or "Unsupported operand" in str(error):
            raise ValueError(f"{path}: holds pickled code, which is never executed; export the weights alone") from None
        raise ValueError(f"{path}: not a complete checkpoint; write or download it again") from None


def _training_folders(folder: str | Path) -> list[Path]:
    folders = [path.parent for path in (Path(folder) / "checkpoints").glob("step_*/state.pth")]
    numbered = [path for path in folders if re.fullmatch(r"step_[0-9]+", path.name)]
    return sorted(numbered, key=lambda path: int(path.name.removeprefix("step_")))


def _by_component(state: State) -> dict[str, State]:
    components: dict[str, State] = {}
    for key, value in state.items():
        parts = key.split(".")
        component = ".".join(parts[: 2 if parts[0] == "ladder" else 1])  # context and refinement train separately
        components.setdefault(component, {})[key] = value
    return components


def _first(names: Any, count: int = 4, separator: str = ", ") -> str:
    names = list(names)
    rest = f"{separator}and {len(names) - count} more" if len(names) > count else ""
    return separator.join(map(str, names[:count])) + rest or "nothing"


def _describe(data: Any) -> str:
    return f"the keys {_first(data)}" if isinstance(data, dict) else type(data).__name__
