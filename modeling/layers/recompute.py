"""Less memory for more time: activations of a chunk are computed again in the backward pass instead of kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint


def recomputed(work: Callable[..., Any], rows: int, *inputs: Tensor | None) -> Any:
    """Apply `work` to its inputs, `rows` of the first axis at a time.

    The backward pass needs the activations of one chunk at a time; of the others, only the inputs are kept. Where
    gradients are off, or `rows` is 0, this is `work(*inputs)`.

    Args:
        work: returns a tensor, or a tuple of tensors, whose first axis is that of the inputs; row by row.
        rows: of a chunk.
        inputs: tensors of one length, or None, which every chunk gets as it is.
    """
    if not rows or not torch.is_grad_enabled():
        return work(*inputs)
    length = next(len(x) for x in inputs if x is not None)
    parts = []
    for first in range(0, length, rows):
        chunk = [None if x is None else x[first : first + rows] for x in inputs]
        parts.append(checkpoint.checkpoint(work, *chunk, use_reentrant=False))
    return joined(parts)


def joined(parts: list[Any]) -> Any:
    """Tensors, or equal tuples of them, put together along the first axis."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(joined(list(part)) for part in zip(*parts, strict=True))
