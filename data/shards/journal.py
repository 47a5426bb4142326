"""The journal of a long task: one line of JSON per step, on disk before the next step begins."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.files import jsonable


class Journal:
    """The lines of one task, which survive a crash; only one process can open the file at a time.

    An incomplete last line is removed when the journal is opened again.

    Args:
        path: the file; created if it does not exist.
    Raises:
        ValueError: when another process has the file open.
    """

    def __init__(self, path: Path) -> None:
        self._stream = path.open("a+b")
        try:
            self._lock(path)
            self.lines: list[dict[str, Any]] = []
            self._ends = [0]
            self._read()
            self.keep(len(self.lines))
        except BaseException:
            self._stream.close()
            raise

    def append(self, entry: dict[str, Any]) -> None:
        """Append a line and write it to disk before returning."""
        data = json.dumps(jsonable(entry), allow_nan=False).encode() + b"\n"
        self._stream.write(data)
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.lines.append(json.loads(data))  # equal to the line that a resumed run reads
        self._ends.append(self._ends[-1] + len(data))

    def keep(self, count: int) -> None:
        """Remove all lines after the first `count`."""
        del self.lines[count:], self._ends[count + 1 :]
        self._stream.truncate(self._ends[-1])

    def close(self) -> None:
        """Close the file and release its lock."""
        self._stream.close()

    def _lock(self, path: Path) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path.parent}: another process is writing to this folder; wait until it ends, or stop it"
            ) from None
        except OSError:
            pass  # the file system has no locks, so other processes cannot be detected

    def _read(self) -> None:
        self._stream.seek(0)
        for line, size in complete_lines(self._stream):
            self.lines.append(line)
            self._ends.append(self._ends[-1] + size)


def complete_lines(stream: BinaryIO) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the lines of a journal with their sizes in bytes, up to the first line that is incomplete or damaged."""
    for data in stream:
        try:
            line = json.loads(data)
        except ValueError:
            return
        if not data.endswith(b"\n") or not isinstance(line, dict):
            return
        yield line, len(data)
