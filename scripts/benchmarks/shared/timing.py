"""Measurements of the benchmarks: interleaved times, peak memory, and floating point operations."""

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
    """Seconds of one call, including all work that it starts on a GPU."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turns(sides: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each side, measured alternately after one untimed call each.

    If the machine is slow for a while, this affects all sides, so ratios are more reliable than times.
    """
    for work in sides.values():
        work()
    turns = [{name: seconds(work, device) for name, work in sides.items()} for _ in range(rounds)]
    return {name: statistics.median(turn[name] for turn in turns) for name in sides}


def peak_mib(work: Work, device: torch.device) -> float:
    """Peak memory of one call beyond the memory before it, in MiB.

    On a GPU from its allocator; on a CPU from the resident memory, sampled every few milliseconds.
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
