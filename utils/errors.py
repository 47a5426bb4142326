"""User errors as one line: what is wrong, the value found, what was expected, what to do."""

import builtins
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRACEBACK_VARIABLE = "TITOK_MRI_TRACEBACK"
RANK_VARIABLE = "RANK"  # set by torchrun and accelerate launch
USER_ERRORS = (ValueError, OSError)
LESS_MEMORY = (
    "lower training.global_batch_size, or raise training.gradient_accumulation_steps; training.recompute_frames, "
    "dataset.max_phases and model.chunks.frames also lower memory"
)
LOST_RANK = re.compile(r"gloo|NCCL|Connection (closed by peer|reset|refused)|Broken pipe|heartbeat", re.IGNORECASE)


@contextmanager
def user_errors() -> Iterator[None]:
    """Report user errors as one line on stderr, with exit code 1; for Ctrl-C, the exit code is 130.

    Used as `with user_errors():` or, above a function, as `@user_errors()`. Set TITOK_MRI_TRACEBACK=1 to see where the
    error was raised.
    """
    try:
        yield
    except KeyboardInterrupt:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        print("interrupted: files that were written are complete; repeat the command to go on", file=sys.stderr)
        raise SystemExit(130) from None
    except (*USER_ERRORS, RuntimeError, MemoryError) as error:
        line = one_line(error)
        if line is None or os.environ.get(TRACEBACK_VARIABLE):
            raise
        rank = os.environ.get(RANK_VARIABLE, "0")
        print(f"error{'' if rank == '0' else f' (rank {rank})'}: {line}", file=sys.stderr)
        raise SystemExit(1) from None


def one_line(error: BaseException) -> str | None:
    """Return an error as one line, or None for an error of the program.

    Errors of the user, of the machine (memory, shared memory, a lost process) and of a loading process have a line. An
    error in a loading process has the line that it has without loading processes.

    Args:
        error: the error.
    """
    text = str(error)
    if loading := re.match(r"Caught (\w+) in DataLoader worker process", text):  # then comes its traceback
        kind = getattr(builtins, loading[1], type(error))
        text = text.rpartition(f"\n{loading[1]}: ")[2]
        if system := re.fullmatch(r"\[Errno \d+\] (.*): '(.*)'", text.strip()):
            text = f"{system[2]}: {system[1]}"
        return " ".join(text.split()) if issubclass(kind, USER_ERRORS) else None
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, USER_ERRORS):
        return " ".join(text.split()) or type(error).__name__
    return _of_the_machine(error, " ".join(text.split()))


def _of_the_machine(error: BaseException, text: str) -> str | None:
    """Return a line for errors of memory, of loading processes and of other ranks; None for other errors."""
    kinds = {kind.__name__ for kind in type(error).__mro__}  # by name, so that torch is not imported for this
    if kinds & {"MemoryError", "OutOfMemoryError"} or "DefaultCPUAllocator: " in text:
        return f"out of memory ({text[:160] or 'no details'}); {LESS_MEMORY}"
    if "DataLoader timed out" in text:
        return f"no batch arrived ({text}); the storage of the data may have stopped; check it and repeat the command"
    if "DataLoader worker" in text:
        return (
            f"a loading process ended ({text[:160]}); memory or shared memory (/dev/shm) may be full: lower "
            "dataset.workers (or --workers); 0 loads without such processes"
        )
    if "DistError" in kinds or LOST_RANK.search(text):
        return f"another rank ended or cannot be reached; its own message has the cause ({text[:160]})"
    return None
