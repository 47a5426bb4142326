"""Files that are written completely or not at all."""

import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.text import read_text

TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.")  # begins the name of a file that is being written


def user_path(text: str) -> Path:
    """Return a path of the command line; a leading `~` is the home folder, also in `--option=~/x`."""
    return Path(os.path.expanduser(text))


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` if the block ends without an error.

    Args:
        path: the file to write; its folder is created; an existing file is kept until the new one is complete.
    Returns:
        A context manager with a path of the same file ending (some writers choose the format by it).
    Raises:
        FileNotFoundError: if the block wrote nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path)
    try:
        yield temporary
        if not temporary.is_file():
            raise FileNotFoundError(f"{path}: nothing was written")
        temporary.chmod(0o666 & ~_umask())  # some writers give access to the owner only
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise named(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; it replaces `path` if the block ends without an error.

    Args:
        path: the folder to write; an existing folder is kept until the new one is complete, and is then removed.
    Returns:
        A context manager with the temporary folder.
    Raises:
        NotADirectoryError: if `path` is a file.
    """
    path = Path(path).absolute()
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: expected a folder or nothing, found a file; choose another name")
    temporary, old = _sibling(path), _sibling(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            sync(entry)
        if path.is_dir():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            if old.is_dir():
                os.rename(old, path)
            raise
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def named(error: OSError, path: str | Path) -> OSError:
    """Return an error of the system that names a file: the error itself, or one that names `path`."""
    if error.errno is None or error.filename is not None:
        return error
    return OSError(error.errno, error.strerror, str(path))


def sweep(folder: Path) -> list[str]:
    """Remove the temporary files and folders that a killed process left in a folder, and return their names.

    Args:
        folder: a folder where nothing else writes; it may not exist.
    """
    left = [path for path in folder.glob(".*") if TEMPORARY.match(path.name)]
    for path in left:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return sorted(path.name for path in left)


def sync(path: Path) -> None:
    """Return when a file, or the list of a folder's files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all.

    Args:
        path: the file.
        text: its content; line ends are not changed.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def write_json(path: str | Path, data: Any) -> None:
    """Write a JSON file, completely or not at all.

    Args:
        path: the file.
        data: plain values, numpy scalars and arrays; NaN and infinities become null, since JSON has no such numbers.
    """
    write_text(path, json.dumps(jsonable(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
    Returns:
        Its content.
    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: naming the file, if it is not JSON in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error}); write or download it again") from None


def blake2b(path: str | Path) -> str:
    """Hash a file.

    Args:
        path: the file.
    Returns:
        BLAKE2b of its bytes, 32 bytes in hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=32)
    with Path(path).open("rb") as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def jsonable(data: Any) -> Any:
    """Convert to plain values of strict JSON.

    Args:
        data: dicts, lists, tuples, scalars, paths, numpy scalars and arrays.
    Returns:
        The same with numpy values as numbers and lists, paths as text, and non-finite numbers as None.
    """
    if isinstance(data, dict):
        return {str(key): jsonable(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [jsonable(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    if hasattr(data, "tolist"):
        return jsonable(data.tolist())
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _sibling(path: Path) -> Path:
    return path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
