"""How the benchmarks measure: sides in turns, memory at its peak, floating point operations by a counter."""

from __future__ import annotations

import ctypes
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], object]


def seconds(work: Work, device: torch.device) -> float:
    """Seconds of one call, of a GPU with all that it was told to do."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(sides: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side; each has one untimed call first, then they take turns.

    A machine that is slow for a while is so for all sides: their ratios hold better than their times.
    """
    for work in sides.values():
        work()
    turns = [{name: seconds(work, device) for name, work in sides.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in turns) for name in sides}


def peak_mib(work: Work, device: torch.device) -> float:
    """The most memory that one call holds beyond what was held before, in MiB.

    Of a GPU by its allocator; of a CPU by resident memory, looked at every few milliseconds.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if sys.platform == "linux":  # memory freed before would hide what this call takes
        ctypes.CDLL(None).malloc_trim(0)
    process, done = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.003):
            highest = max(highest, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return (highest - before) / 2**20


def gflop(work: Work) -> float:
    """Billions of floating point operations of one call, a multiplication and an addition counted as two."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # fused kernels are not all counted
        work()
    return counter.get_total_flops() / 1e9
