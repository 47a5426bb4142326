"""Weights on disk: written completely or not at all, read without executing code from a file."""

import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from utils.files import atomic_path, blake2b, read_json, write_json

State = dict[str, Tensor]
SCHEMA_VERSION = 1  # of config.json
WEIGHTS_HASH = "weights_hash"  # in config.json: BLAKE2b of the bytes of model.safetensors


def export(folder: str | Path, config: dict[str, Any], state: State, dtype: torch.dtype | None = None) -> None:
    """Write `model.safetensors`, and `config.json` with its hash, each whole or not at all.

    Args:
        folder: made where it does not exist.
        config: plain values.
        state: the weights by name.
        dtype: of the written weights; as they are when not given.
    Raises:
        OSError: naming the file and the space that it needs, when it cannot be written.
        ValueError: for weights that are not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights, written = folder / "model.safetensors", _on_cpu(state, dtype)
    check_values(written, weights)
    with disk_errors(weights, tensor_bytes(written)), atomic_path(weights) as temporary:
        save_file(written, temporary, metadata={"format": "pt"})
        digest = blake2b(temporary)
    write_json(folder / "config.json", {**config, WEIGHTS_HASH: digest})


def save_checkpoint(path: str | Path, config: dict[str, Any], state: State) -> None:
    """Write weights and the resolved config of a run as one file, whole or not at all, for `load_weights`.

    Raises:
        OSError: naming the file and the space that it needs, when it cannot be written.
        ValueError: for weights that are not finite.
    """
    written = _on_cpu(state)
    check_values(written, path)
    with disk_errors(Path(path), tensor_bytes(written)), atomic_path(Path(path)) as temporary:
        torch.save({"config": config, "model": written}, temporary)


def tensor_bytes(data: Any) -> int:
    """Return the number of bytes of all tensors in nested dicts, lists and tuples."""
    if isinstance(data, Tensor):
        return data.numel() * data.element_size()
    parts = data.values() if isinstance(data, dict) else data if isinstance(data, list | tuple) else ()
    return sum(map(tensor_bytes, parts))


@contextmanager
def disk_errors(path: Path, needed: int) -> Iterator[None]:
    """Report a failure to write weights as one error that names the file and the space.

    Args:
        path: the file or folder that the block writes.
        needed: bytes that it needs.
    Raises:
        OSError: when the disk is too small, or the block cannot write.
    """
    parent = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    space = f"it needs {needed / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free in {parent}"
    advice = "free some space and repeat the command"
    if free < needed:
        raise OSError(f"{path}: the disk is full: {space}; {advice}")
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors report a full disk in many ways
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OSError(f"{path}: cannot be written ({' '.join(reason.split())[:160]}): {space}; {advice}") from error


def _on_cpu(state: State, dtype: torch.dtype | None = None) -> State:
    return {name: tensor.detach().to("cpu", dtype, copy=True).contiguous() for name, tensor in state.items()}


def load_weights(path: str | Path, expected_hash: str | None = None) -> tuple[State, dict[str, Any] | None]:
    """Read weights, and their config if it exists.

    Args:
        path: a `.safetensors` file; a folder of `model.safetensors` and `config.json`; or a `torch.save` file that
            holds {"model": weights, "config": plain values} or the weights alone.
        expected_hash: `weights_hash` of the config.json that belongs to a `.safetensors` file; None if it has none.
    Returns:
        The weights on the CPU, and the config or None.
    Raises:
        FileNotFoundError: naming the file that is missing.
        ValueError: naming the file, if it is incomplete, damaged, or holds more than weights.
    """
    path = Path(path)
    if path.is_dir():
        config = read_config(path / "config.json")
        return _load_safetensors(path / "model.safetensors", config.get(WEIGHTS_HASH)), config
    if path.suffix == ".safetensors":
        return _load_safetensors(path, expected_hash), None
    data = load_archive(path)
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
        expected: the model's state dict, also on the meta device.
        state: the weights.
        source: origin of the weights, for error messages.

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


def _load_safetensors(path: Path, expected_hash: str | None) -> State:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if expected_hash is not None and blake2b(path) != expected_hash:
        raise ValueError(
            f"{path}: damaged, or not the weights of its config.json ({WEIGHTS_HASH}); export or download both again"
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error}); write or download it again") from None
    check_values(state, path)
    return state


def load_archive(path: Path) -> Any:
    """Read a file of `torch.save` with its checksums, without executing code from it.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: naming the file, if it is incomplete, damaged, or holds code.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several types: UnpicklingError, RuntimeError, EOFError, KeyError ...
        if "Unsupported global" in str(error) or "Unsupported operand" in str(error):
            raise ValueError(f"{path}: holds pickled code, which is never executed; export the weights alone") from None
        raise ValueError(f"{path}: not a complete checkpoint; write or download it again") from None


def check_archive(path: Path) -> None:
    """Raise a ValueError if a part of a file of `torch.save` differs from its checksum (CRC-32), or is cut off.

    Files in torch's format from before 2020 have no checksums; `torch.load` reads them.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            if stream.read(2) == b"PK":
                raise ValueError(f"{path}: not a complete checkpoint; write or download it again")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError, RuntimeError):
        damaged = "its list of parts"
    if damaged is not None:
        raise ValueError(f"{path}: damaged ({damaged} differs from its checksum); use another checkpoint")


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
