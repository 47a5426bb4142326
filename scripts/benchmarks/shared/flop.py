"""Floating point operations (FLOP) of blocks of a program, by type of number.

Counted are matrix products, convolutions and fused attention, a multiplication and an addition as two. The formulas are
those of torch.utils.flop_counter, which look at shapes, so the tensors may be fake. All other operations count as zero.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from scripts.benchmarks.shared.saved import like_a_gpu

Shape = tuple[int, ...]


def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """FLOP of fused attention: two products."""
    return sdpa_flop_count(query, key, value)


def attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """FLOP of its gradient: the scores again, and four products."""
    return sdpa_backward_flop_count(gradient, query, key, value)


FUSED_ON_CPU = {  # torch has formulas for the kernels of a GPU only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
}


FORWARD, BACKWARD, RECOMPUTED = PARTS = ("forward", "backward", "recomputed")


class Flop:
    """FLOP within blocks.

    Attributes:
        counts: (part of a step, type of the operations' first tensor) -> FLOP so far.
        part: FORWARD or BACKWARD, the part of a block; recomputed operations of a checkpoint are RECOMPUTED.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, torch.dtype], int] = defaultdict(int)
        self.part = FORWARD
        self.times = 1
        self.innermost: TorchDispatchMode | None = None

    def of(self, part: str, itemsize: int) -> int:
        """Return the FLOP of a part, for numbers of a given size in bytes."""
        return sum(count for (name, dtype), count in self.counts.items() if (name, dtype.itemsize) == (part, itemsize))

    @contextmanager
    def counting(self, times: int = 1, known: Iterable[Tensor] = ()) -> Iterator[None]:
        """Count the operations within the block; in nested blocks only the inner block counts.

        Args:
            times: factor of each count.
            known: not used here, see `Counter`.
        """
        counter = FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU)
        mode = _ByType(self, counter)
        checkpoint = partial(torch.utils.checkpoint.checkpoint, context_fn=lambda: (nullcontext(), self._recomputing()))
        before, self.times, self.innermost = (self.times, self.innermost), times, mode
        try:
            with patch.object(torch.utils.checkpoint, "checkpoint", checkpoint), counter, mode:
                yield
        finally:
            self.times, self.innermost = before

    @contextmanager
    def _recomputing(self) -> Iterator[None]:
        """Around what a checkpoint computes again; a backward pass has left the mode `like_a_gpu` of the forward."""
        before, self.part = self.part, RECOMPUTED
        try:
            with like_a_gpu():
                yield
        finally:  # a checkpoint stops early with an exception
            self.part = before


class _ByType(TorchDispatchMode):
    """Asks a counter before and after each operation."""

    def __init__(self, flop: Flop, counter: FlopCounterMode) -> None:
        super().__init__()
        self.flop, self.counter = flop, counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        count = self.counter.get_total_flops() - before
        if count and self.flop.innermost is self:
            first = next(x for x in args if isinstance(x, Tensor))
            self.flop.counts[self.flop.part, first.dtype] += self.flop.times * count
        return result
