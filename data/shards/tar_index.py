"""Positions of the members of an untrusted tar file: nothing is extracted, unpickled or executed."""

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
    """A regular file in a tar file.

    Args:
        name: name of the member.
        offset: position of the content in the tar file, in bytes.
        size: size in bytes.
    """

    name: str
    offset: int
    size: int


class NpyPlace(NamedTuple):
    """Position of the values of an array in a tar file.

    Args:
        offset: position of the first value, in bytes.
        shape: shape of the array, in C order.
        dtype: data type of the values.
    """

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize  # Python integers do not overflow for a forged shape


def list_members(path: Path, expected_bytes: int) -> list[Member]:
    """List the members of a tar file from its headers, without reading their content.

    Args:
        path: an uncompressed tar file.
        expected_bytes: size in bytes in the manifest.
    Returns:
        The members in the order of the file.
    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: when the file is truncated or damaged, or has a member that is not a regular file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the manifest lists this shard, but it is missing; convert the data again")
    if path.stat().st_size != expected_bytes:
        raise ValueError(
            f"{path}: has {path.stat().st_size} bytes, expected {expected_bytes} as in the manifest; "
            "it is truncated or was changed: restore the file or convert the data again"
        )
    members = []
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                check_plain(info, path)
                members.append(Member(info.name, info.offset_data, info.size))
    except tarfile.TarError as error:
        raise ValueError(
            f"{path}: is not a complete tar file ({error}); restore the file or convert the data again"
        ) from error
    return members


def check_plain(info: tarfile.TarInfo, where: str | Path) -> None:
    """Refuse a member that is not a regular file.

    Args:
        info: header of the member.
        where: shard, for the error message.
    Raises:
        ValueError: for a link, folder, device or sparse file, or a negative size.
    """
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.issparse() or info.size < 0:
        raise ValueError(f"{where}: refused {info.name!r}, which is a link, folder or device; expected a regular file")


def read_json_member(stream: BinaryIO, member: Member) -> Any:
    """Read the content of a .json member.

    Args:
        stream: the tar file.
        member: the .json member.
    Returns:
        The parsed JSON.
    Raises:
        ValueError: when the member is too large or is not JSON, or a field occurs twice.
    """
    if member.size > MAX_JSON:
        raise ValueError(f"refused {member.name}: it has {member.size} bytes, expected at most {MAX_JSON}")
    stream.seek(member.offset)
    try:
        return json.loads(stream.read(member.size), object_pairs_hook=_fields)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{member.name} is not valid JSON ({error})") from error


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a field occurs twice")
    return fields


def npy_place(stream: BinaryIO, member: Member) -> NpyPlace:
    """Read the position, shape and type of a .npy member from its header.

    Args:
        stream: the tar file.
        member: the .npy member.
    Returns:
        The position of the values.
    Raises:
        ValueError: when the member holds pickled objects, is not in C order, or does not have the size of its shape.
    """
    stream.seek(member.offset)
    head = io.BytesIO(
        stream.read(min(member.size, MAX_NPY_HEADER + 16))
    )  # at most this, for any header length in the file
    try:
        major, _ = np.lib.format.read_magic(head)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(head, max_header_size=MAX_NPY_HEADER)
    except (ValueError, TypeError, SyntaxError, EOFError, RecursionError, MemoryError, tokenize.TokenError) as error:
        raise ValueError(f"{member.name} is not a .npy array ({error})") from error
    if dtype.kind not in "iuf" or fortran_order or any(n < 0 for n in shape):
        order = "Fortran" if fortran_order else "C"
        raise ValueError(
            f"refused {member.name}: {dtype} {shape} in {order} order, expected integers or floats in C order"
        )
    place = NpyPlace(member.offset + head.tell(), shape, dtype)
    if place.offset + place.size != member.offset + member.size:
        raise ValueError(f"{member.name} has {member.size} bytes, which does not match shape {shape} of {dtype}")
    return place
