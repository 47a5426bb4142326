"""Where the members of a tar file stand, found without trusting it: nothing is extracted, unpickled or run."""

from __future__ import annotations

import io
import json
import math
import tarfile
import tokenize
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAX_NPY_HEADER = 4096
MAX_JSON = 1 << 16


class Member(NamedTuple):
    """A plain file inside a tar."""

    name: str
    offset: int
    size: int


class NpyPlace(NamedTuple):
    """Where an array's values stand inside a tar, in C order."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize  # in Python's integers, which no forged shape overflows


def list_members(path: Path, expected_bytes: int) -> list[Member]:
    """List a tar file from its headers; reads no content.

    Args:
        path: an uncompressed tar file.
        expected_bytes: its size when it was written.
    Raises:
        FileNotFoundError: when it is missing.
        ValueError: when it is truncated or damaged or holds anything but plain files.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the manifest lists this shard, but it is missing; convert the data again")
    if path.stat().st_size != expected_bytes:
        raise ValueError(
            f"{path}: has {path.stat().st_size} bytes, the manifest says {expected_bytes}; "
            "it is truncated or was changed: restore it or convert again"
        )
    members = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                check_plain(info, path)
                members.append(Member(info.name, info.offset_data, info.size))
    except tarfile.TarError as error:
        raise ValueError(f"{path}: is not a whole tar file ({error}); restore it or convert again") from error
    return members


def check_plain(info: tarfile.TarInfo, where: str | Path) -> None:
    """Refuse a member that is no plain file: a link, folder, device, sparse file, or one of negative size."""
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse() or info.size < 0:
        raise ValueError(f"{where}: refused {info.name!r}, which is a link, folder or device, not a file")


def read_json_member(stream: BinaryIO, member: Member) -> Any:
    """The content of a .json member.

    Raises:
        ValueError: when it is too large, is not JSON, or says the same field twice.
    """
    if member.size > MAX_JSON:
        raise ValueError(f"refused {member.name}: it has {member.size} bytes, expected at most {MAX_JSON}")
    stream.seek(member.offset)
    try:
        return json.loads(stream.read(member.size), object_pairs_hook=_fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{member.name} is not plain JSON ({error})") from error


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field stands twice")
    return fields


def npy_place(stream: BinaryIO, member: Member) -> NpyPlace:
    """Find the values of a .npy member from its header.

    Raises:
        ValueError: when it holds pickled objects, is not in C order, or its size is not what the header says.
    """
    stream.seek(member.offset)
    head = io.BytesIO(stream.read(min(member.size, MAX_NPY_HEADER + 16)))  # whatever length the header claims
    try:
        major, _ = np.lib.format.read_magic(head)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(head, max_header_size=MAX_NPY_HEADER)
    except (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"{member.name} is not a .npy array ({error})") from error
    if dtype.kind not in "iuf" or fortran_order or any(n < 0 for n in shape):
        order = "Fortran" if fortran_order else "C"
        raise ValueError(f"refused {member.name}: {dtype} {shape} in {order} order, expected plain numbers in C order")
    place = NpyPlace(member.offset + head.tell(), shape, dtype)
    if place.offset + place.size != member.offset + member.size:
        raise ValueError(f"{member.name} has {member.size} bytes, which do not fit its shape {shape} of {dtype}")
    return place
