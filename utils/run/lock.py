"""A lock of an output folder, which the system releases at the end of the process."""

import fcntl
import os
import socket
from pathlib import Path


class Lock:
    """A folder that one process uses; a context manager.

    The lock is a file `.lock` with the process and its machine. The system releases it when the process ends in any
    way; child processes do not hold it. A folder that holds nothing else at the end is removed.

    Args:
        folder: created if it does not exist.
    Raises:
        ValueError: when another process uses the folder, or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder}: cannot be used as a folder ({error.strerror}); choose another") from None
        while True:
            self._stream = self.path.open("a+", encoding="utf-8")
            try:
                fcntl.lockf(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                self._stream.seek(0)
                holder = self._stream.read(200).strip()
                self._stream.close()
                raise ValueError(
                    f"{folder}: another process ({holder}) writes to this folder; wait until it ends, stop it, or "
                    "choose another folder"
                ) from None
            except OSError:
                pass  # the file system has no locks, so other processes cannot be detected
            if self.path.exists() and os.path.samestat(os.fstat(self._stream.fileno()), self.path.stat()):
                break  # otherwise the process that had the lock removed this file a moment ago
            self._stream.close()
        self._stream.truncate(0)
        self._stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._stream.flush()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        if {path.name for path in self.path.parent.iterdir()} == {self.path.name}:
            self.path.unlink()
            self.path.parent.rmdir()
        self._stream.close()
