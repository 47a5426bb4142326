"""Bytes of the tensors that autograd saves between forward and backward pass, counted with fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol
from unittest.mock import patch

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode

IN_FLOAT32: set[Any] = {  # what autocast computes in float32 on a GPU, and on a CPU in bf16
    F.layer_norm, F.group_norm, F.normalize, F.softmax, F.cross_entropy, torch.softmax, Tensor.softmax,
}  # fmt: skip


class Counter(Protocol):
    """Counter of the computations within blocks: `Saved` counts bytes, `Flop` of flop.py counts operations."""

    def counting(self, times: int = 1, known: Iterable[Tensor] = ()) -> AbstractContextManager[None]:
        """Count within a block.

        Args:
            times: factor of each count.
            known: tensors that were counted before.
        """


class Saved:
    """Bytes saved for the backward pass: each storage once; of recomputed parts their inputs and the largest chunk."""

    def __init__(self) -> None:
        self.storages: dict[int, tuple[Any, int]] = {}  # by address; references prevent reuse of the address; bytes
        self.chunk = 0
        self.times = 1
        self.known: dict[tuple[Any, ...], tuple[Any, int]] = {}  # outputs and bytes of chunks of equal shapes

    @property
    def bytes(self) -> int:
        """Number of bytes counted so far."""
        return sum(count for _, count in self.storages.values())

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Exclude tensors from the count."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self.storages[storage._cdata] = (storage, 0)

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved."""
        storage = tensor.untyped_storage()
        self.storages.setdefault(storage._cdata, (storage, self.times * storage.nbytes()))
        return tensor

    @contextmanager
    def counting(self, times: int = 1, known: Iterable[Tensor] = ()) -> Iterator[None]:
        """Count the tensors that are saved within the block.

        Args:
            times: factor of the size of each storage.
            known: tensors that were counted before, under another storage.
        """
        self.leave_out(known)
        before, self.times = self.times, times
        with (
            patch.object(torch.utils.checkpoint, "checkpoint", self.recomputed),
            torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor),
        ):
            yield
        self.times = before

    def recomputed(self, work: Callable[..., Any], *inputs: Any, use_reentrant: bool) -> Any:
        """Replace torch's checkpoint: count the inputs of each chunk, and once the tensors of the largest chunk."""
        for x in inputs:
            if isinstance(x, Tensor):
                self.keep(x)
        shapes = (tuple(x.shape) if isinstance(x, Tensor) else None for x in inputs)
        key = (getattr(work, "__qualname__", id(work)), *shapes)
        if key not in self.known:  # chunks of equal shapes need equal memory: one is counted
            inner = Saved()
            inner.storages = {address: (storage, 0) for address, (storage, _) in self.storages.items()}
            with inner.counting():
                self.known[key] = (work(*inputs), 0)
            self.chunk = max(self.chunk, inner.bytes + inner.chunk)
            return self.known[key][0]
        return alike(self.known[key][0])


def alike(tensors: Any) -> Any:
    """Return new tensors with the shapes and `requires_grad` of others."""
    if isinstance(tensors, Tensor):
        return torch.empty_like(tensors).detach().requires_grad_(tensors.requires_grad)
    return type(tensors)._make(map(alike, tensors)) if hasattr(tensors, "_make") else tuple(map(alike, tensors))


class like_a_gpu(TorchFunctionMode):  # noqa: N801 - used as a context manager
    """Autocast on a CPU that computes the same operations in float32 as on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in IN_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args = [x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args]
        return func(*args, **(kwargs or {}))
