"""Less memory for more time: activations of a chunk are computed again in the backward pass instead of stored."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint


def recomputed(work: Callable[..., Any], rows: int, *inputs: Tensor | None) -> Any:
    """Apply `work` to the inputs, `rows` rows of the first axis at a time.

    The backward pass holds the activations of one chunk at a time; only the inputs of the others are stored. Without
    gradients, or if `rows` is 0, the result is `work(*inputs)`.

    Args:
        work: row-wise function of the inputs; returns a tensor, or a tuple of tensors, with the same first axis.
        rows: number of rows of a chunk.
        inputs: tensors with first axes of one length; None is passed on to every chunk.
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
    """Concatenate tensors, or equal tuples of tensors, along the first axis."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(joined(list(part)) for part in zip(*parts, strict=True))
