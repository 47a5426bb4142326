"""Devices, and the precision of their computations."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def pick_device(name: str) -> torch.device:
    """The device for a name.

    Args:
        name: `cpu`, `cuda`, `cuda:1` ..., or `auto` for a GPU if there is one, else the CPU. Each of the ranks that a
            launcher starts on a machine has its own GPU.

    Returns:
        A device that works.

    Raises:
        ValueError: for a device that is unknown or not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and "LOCAL_RANK" in os.environ:
            name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(" device type at start")[0]
        raise ValueError(f"device {name} cannot be used ({reason}); expected auto, cpu, cuda or cuda:N") from None


def native_precision(device: torch.device) -> str:
    """bf16 if the device has bf16 instructions, else no: emulated bf16 is a hundred times slower than float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "no"


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switch off TF32 and bf16 for float32 products, since they change tokens; also a decorator."""
    before = [(switch, name, getattr(switch, name)) for switch, name, _ in _switches()]
    try:
        for switch, name, exact in _switches():
            setattr(switch, name, exact)
        yield
    finally:
        for switch, name, value in before:
            setattr(switch, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Settings for the precision of float32 products: object, attribute, exact value."""
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # newer torch; mixing it with allow_tf32 is an error
        switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        return [(switch, "fp32_precision", "ieee") for switch in switches]
    return [(switch, "allow_tf32", False) for switch in (backends.cuda.matmul, backends.cudnn)]


def cpu_cores() -> int:
    """Number of cores that this process may use; `taskset` and containers can limit it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
