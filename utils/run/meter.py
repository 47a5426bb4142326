"""Speed of a run: frames a second, share of the time spent waiting for data, memory, time left."""

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

SHOWN = ("val_", "count_")  # beginnings of names that the line of a step leaves out
APART = ("loss", "learning_rate", "grad_norm", "perplexity", "codes_used", "speed")


class Meter:
    """Times a run between two lines of its log.

    Args:
        device: whose memory is reported; the resident memory of this process on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start, self._waited, self._frames, self._steps = time.perf_counter(), 0.0, 0, 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def add(self, frames: int) -> None:
        """Count a step.

        Args:
            frames: frames of all ranks.
        """
        self._frames += frames
        self._steps += 1

    def lap(self, steps_left: int) -> dict[str, float]:
        """Return the speed since the last call.

        Args:
            steps_left: steps that the run still has.
        Returns:
            `frames_per_s` of all ranks, with previews and checkpoints in the time; `data_wait`, a share of the time in
            [0, 1]; `memory_gib`, the highest so far; `eta_s`, the expected seconds to the end.
        """
        now = time.perf_counter()
        seconds = max(now - self._start, 1e-9)
        lap = {
            "frames_per_s": self._frames / seconds,
            "data_wait": self._waited / seconds,
            "memory_gib": peak_memory(self.device),
            "eta_s": steps_left * seconds / max(1, self._steps),
        }
        self._start, self._waited, self._frames, self._steps = now, 0.0, 0, 0
        return lap


def peak_memory(device: torch.device) -> float:
    """Return the highest memory so far in GiB: of a GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def console_line(step: int, max_steps: int, values: Mapping[str, Any]) -> str:
    """Return a line of the log as readable text.

    Args:
        step: optimizer steps done.
        max_steps: of the run.
        values: the line of the log, with `speed` from `Meter.lap`.
    """
    terms = {k: v for k, v in values.items() if k not in APART and not k.startswith(SHOWN)}
    speed = values["speed"]
    parts = [
        f"step {step}/{max_steps}",
        f"loss {values['loss']:.4g} ({', '.join(f'{name} {value:.4g}' for name, value in terms.items())})",
        f"learning rate {values['learning_rate']:.3g}",
        f"gradient {values['grad_norm']:.3g}",
        *([f"perplexity {values['perplexity']:.3g}"] if "perplexity" in values else []),
        f"{speed['frames_per_s']:.1f} frames/s",
        f"waiting for data {speed['data_wait']:.0%}",
        f"memory {speed['memory_gib']:.1f} GiB",
        f"{timedelta(seconds=round(speed['eta_s']))} left",
    ]
    return "  ".join(parts)
