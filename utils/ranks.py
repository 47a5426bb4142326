"""Sums and rows over the ranks of a distributed run."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor


def sum_over_ranks(value: Tensor) -> Tensor:
    """Differentiable sum of a tensor over all ranks; the tensor itself for one rank."""
    return value if world_size() == 1 else dist_nn.all_reduce(value)


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:  # (n, ...); n may differ between ranks
    """The rows of all ranks, in the order of the ranks, differentiable."""
    if world_size() == 1:
        return rows
    counts = torch.zeros(world_size(), dtype=torch.long, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    first = int(counts[: dist.get_rank()].sum())
    before = rows.new_zeros(first, *rows.shape[1:])
    after = rows.new_zeros(int(counts.sum()) - first - len(rows), *rows.shape[1:])
    return sum_over_ranks(torch.cat([before, rows, after]))


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Average over ranks the gradients of parameters outside distributed wrappers."""
    if world_size() > 1:
        for parameter in parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            dist.all_reduce(gradient)
            parameter.grad = gradient / world_size()
