"""Requests to stop a run (SIGTERM, Ctrl-C, a lost launcher): it finishes its step, writes a checkpoint and exits.

Queues of clusters send SIGTERM some time before they take a machine away.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist

from utils.ranks import world_size

SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEATED_SECONDS = 3.0  # a queue sends SIGTERM to launcher and training, and the launcher forwards its signal
LAUNCHERS = ("accelerate", "torchrun", "torch.distributed")
POLL_SECONDS = 0.2


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Handle SIGTERM as Ctrl-C inside the block, so that a file that is being written is removed."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopRequest:
    """Requests to stop, as a context manager; signals have their usual effect outside it.

    The first signal is noted. A second one ends the process at once; a second SIGTERM within three seconds counts as
    the first. The end of the launcher (accelerate launch, torchrun) is also a request.

    Args:
        main: whether this process prints what it does.
    """

    def __init__(self, main: bool = True) -> None:
        self.main = main
        self.status = 0
        self.reason = ""
        self._first = 0.0
        self._earlier: dict[int, Any] = {}
        self._ended = threading.Event()
        self._pending: tuple[Any, torch.Tensor] | None = None
        self._group: Any = dist.new_group(backend="gloo") if world_size() > 1 else None

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python allows handlers there only
            self._earlier = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        launcher = launcher_of_this_process()
        if launcher is not None:
            threading.Thread(target=self._watch, args=(launcher,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def agreed(self) -> int:
        """Return the exit status of a requested stop, or 0; the same number on every rank at the same step.

        Ranks exchange one number a step on the CPU, without a device synchronisation. With several ranks the result is
        that of the step before.
        """
        if self._group is None:
            return self.status
        answer = 0
        if self._pending is not None:
            self._pending[0].wait()
            answer = int(self._pending[1])
        status = torch.tensor(self.status)
        self._pending = (dist.all_reduce(status, dist.ReduceOp.MAX, self._group, async_op=True), status)
        return answer

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.status:
            self._first = now
            self._request(number, signal.Signals(number).name)
        elif number == signal.SIGINT or now - self._first > REPEATED_SECONDS:
            os._exit(128 + number)

    def _request(self, number: int, reason: str) -> None:
        self.status, self.reason = 128 + number, reason
        if self.main:  # print is not allowed in a signal handler
            text = f"\n{reason}: this step is finished and a checkpoint is written; a second signal ends at once\n"
            with contextlib.suppress(OSError):
                os.write(2, text.encode())

    def _watch(self, launcher: int) -> None:
        while not self._ended.wait(POLL_SECONDS):
            if os.getppid() != launcher:
                if not self.status:
                    self._request(signal.SIGTERM, "the launcher has ended")
                return


def launcher_of_this_process() -> int | None:
    """Return the id of the parent process if it is accelerate or torchrun, else None."""
    parent = os.getppid()
    try:
        import psutil  # accelerate needs it too

        words = psutil.Process(parent).cmdline()
    except Exception:  # a parent that has ended, or one of another user
        return None
    return parent if any(name in word for word in words[:4] for name in LAUNCHERS) else None
