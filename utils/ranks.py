"""Sums and rows over the ranks of a distributed training, and a list of work that is divided among ranks."""

import atexit
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor

from utils.device import cpu_cores

T = TypeVar("T")
LONGEST_WAIT = timedelta(days=30)  # of one rank for another; the launcher ends all ranks when one is killed


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


class _RankError(OSError):
    """Another rank failed.

    Args:
        rank: the first rank that failed; None if it ended without a message.
    """

    def __init__(self, rank: int | None) -> None:
        super().__init__("another process of this command was ended; repeat the command")
        self.rank = rank


@contextmanager
def over_ranks() -> Iterator[None]:
    """Run a command on all ranks that `torchrun` or `accelerate launch` started; does nothing for one process.

    Used as a decorator below `@user_errors()`. Only the main rank prints and shows progress bars. An error on any rank
    ends all ranks at their next `gather`, or at the end of the block. The first rank that failed raises its own error,
    the others end silently.
    """
    is_launched = "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1
    if not is_launched or world_size() > 1:  # the second, for a command that another command runs
        yield
        return
    dist.init_process_group("gloo", timeout=LONGEST_WAIT)  # only objects are exchanged, on the CPU
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    torch.set_num_threads(max(1, cpu_cores() // local_ranks))  # the launchers leave one thread
    try:
        with ExitStack() as silence:
            if not is_main():
                nowhere = silence.enter_context(open(os.devnull, "w"))
                silence.enter_context(redirect_stdout(nowhere))
                silence.enter_context(redirect_stderr(nowhere))
            yield
            gather([])
    except (Exception, SystemExit) as error:
        first = error.rank if isinstance(error, _RankError) else _share_failure()
        atexit.register(_leave, first is not None)  # not now: the error is printed first
        if first in (None, dist.get_rank()) or isinstance(error, SystemExit):
            raise
        raise SystemExit(1) from None
    dist.destroy_process_group()


def _leave(together: bool) -> None:
    """End the exchange; the ranks wait for each other, since the launcher ends all when the first one ends."""
    if together:
        dist.barrier()
    dist.destroy_process_group()


def is_main() -> bool:
    """Return whether this is the rank that writes the results of all ranks."""
    return world_size() == 1 or dist.get_rank() == 0


def bounds(count: int) -> tuple[int, int]:
    """First and last (not included) of `count` items of this rank: the ranks have consecutive, equally large parts."""
    if world_size() == 1:
        return 0, count
    first, last = (-(-count * rank // world_size()) for rank in (dist.get_rank(), dist.get_rank() + 1))
    return first, last


def share(items: Sequence[T]) -> Sequence[T]:
    """The items of this rank; all ranks must have the same list."""
    first, last = bounds(len(items))
    return items[first:last]


def gather(items: Sequence[T]) -> list[T]:
    """The items of all ranks in the order of the ranks, which is the order before `share`; every rank must call it."""
    return list(items) if world_size() == 1 else _exchange(list(items))


def _exchange(items: list[Any] | None) -> list[Any]:
    """Exchange the items of all ranks; None says that this rank has failed."""
    of_ranks: list[Any] = [None] * world_size()
    try:
        dist.all_gather_object(of_ranks, items)
    except RuntimeError as error:  # the connection to a rank is lost
        raise _RankError(None) from error
    if None in of_ranks:
        raise _RankError(of_ranks.index(None))
    return [item for of_rank in of_ranks for item in of_rank]


def _share_failure() -> int | None:
    """Tell the others that this rank has failed; return the first rank that failed, or None if the others are lost."""
    try:
        _exchange(None)
    except _RankError as error:
        return error.rank
    return None
