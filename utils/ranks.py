"""Sums over the ranks of a distributed run."""

import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over all ranks, differentiable; the tensor itself where there is one rank."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    return dist_nn.all_reduce(value)
