"""Sequential reading of shards on a disk or at a URL; nothing is copied to the disk.

    open shard ─► members, each checked ─► samples, grouped by webdataset ─► decoded and checked ─► patients

Opening and decoding by webdataset are not used. It runs commands (`pipe:`, curl), unpacks gzip, expands sparse files
and skips links without an error, and its decoder unpickles.
"""

from __future__ import annotations

import hashlib
import io
import math
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from webdataset.tariterators import group_by_keys

from data.shards import remote
from data.shards.reader import ShardReader, check_stack
from data.shards.samples import SampleEntry, entry_of, known
from data.shards.tar_index import Member, NpyPlace, check_plain

BUFFER_BYTES = 1 << 17  # largest read from a connection


class Slices(ShardReader):
    """Slices in memory, read by index like the slices of a folder.

    Args:
        slices: entry and bytes of each slice; the positions in an entry are positions in these bytes.
    """

    def __init__(self, slices: list[tuple[SampleEntry, bytes]]) -> None:
        self.samples = [entry for entry, _ in slices]
        self._data = {entry.key: data for entry, data in slices}

    def single_slices(self) -> list[Slices]:
        """Return each slice as a reader of one slice."""
        return [Slices([(entry, self._data[entry.key])]) for entry in self.samples]

    def _fill(self, entry: SampleEntry, place: NpyPlace, out: np.ndarray | None = None) -> np.ndarray:
        values = np.frombuffer(self._data[entry.key], place.dtype, math.prod(place.shape), place.offset)
        out = np.empty(place.shape, place.dtype) if out is None else out
        out[...] = values.reshape(place.shape)
        return out


class ShardStream:
    """An open shard, compared with the manifest at its end.

    Args:
        place: a local folder or a URL, from `remote.checked_place`.
        shard: record of the manifest with `file` and `bytes`, and for a URL `blake2b`. A local shard is not hashed.
    Raises:
        OSError: naming the shard, when it cannot be opened; from `read`, when it ends too early or is too slow.
    """

    def __init__(self, place: Path | str, shard: dict[str, Any]) -> None:
        self.name, self._shard = f"{place}/{shard['file']}", shard
        self._digest = hashlib.blake2b(digest_size=32) if isinstance(place, str) else None
        self._count, self._waited = 0, 0.0
        try:
            self._stream = remote.open_shard(place, shard["file"], shard["bytes"])
        except Exception as error:  # the libraries of the protocols raise different errors
            raise self._broken(error) from error

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; no bytes at the end."""
        started = time.monotonic()
        try:
            data = self._stream.read(min(size, self._shard["bytes"] + 1 - self._count))
        except Exception as error:
            raise self._broken(error) from error
        self._waited += time.monotonic() - started  # only the time of reading is counted
        self._count += len(data)
        if self._waited > remote.SILENCE_SECONDS + self._count / remote.SLOWEST_BYTES_PER_SECOND:
            raise OSError(
                f"{self.name}: received {self._count} bytes in {self._waited:.0f} s, expected at least "
                f"{remote.SLOWEST_BYTES_PER_SECOND} bytes a second; check server and network, and start again"
            )
        if self._digest is not None:
            self._digest.update(data)
        return data

    def finish(self) -> None:
        """Read to the end, and compare size and hash with the manifest.

        Raises:
            ValueError: when size or hash differ.
        """
        while self.read(remote.CHUNK_BYTES):
            pass
        difference = None
        if self._count != self._shard["bytes"]:
            more = "more than " if self._count > self._shard["bytes"] else ""
            difference = f"{more}{min(self._count, self._shard['bytes'])} bytes instead of {self._shard['bytes']}"
        elif self._digest is not None and self._digest.hexdigest() != self._shard.get("blake2b"):
            difference = "another content (BLAKE2b)"
        if difference:
            raise ValueError(f"{self.name}: has {difference}, which differs from the manifest; restore it")

    def close(self) -> None:
        """Close the connection or file."""
        self._stream.close()

    def _broken(self, error: Exception) -> OSError:
        return OSError(
            f"{self.name}: could not be read after {self._count} of {self._shard['bytes']} bytes "
            f"({type(error).__name__}: {error}); check that it exists, and the connection, and start again"
        )


def patients(place: Path | str, shard: dict[str, Any], listed: set[str]) -> Iterator[Slices]:
    """Iterate over the patients of one shard, each with all slices in order.

    Args:
        place: a local folder or a URL, from `remote.checked_place`.
        shard: record of the manifest.
        listed: patients of the split in the manifest.
    Raises:
        OSError: naming the shard, when it cannot be opened or read to its end.
        ValueError: naming the shard, when it is damaged, has unknown or unsafe members, or differs from the manifest.
    """
    with closing(ShardStream(place, shard)) as stream:
        stack: list[tuple[SampleEntry, bytes]] = []
        count = 0
        for sample in group_by_keys(_members(stream)):
            entry, data = _decoded(sample, shard["file"], stream.name)
            if entry.patient not in listed:
                raise ValueError(f"{stream.name}: shards and manifest disagree on {entry.patient}; convert again")
            if stack and entry.patient != stack[0][0].patient:
                check_stack([entry for entry, _ in stack], stream.name)
            stack.append((entry, data))
            count += 1
            if len(stack) == entry.slices:
                check_stack([entry for entry, _ in stack], stream.name)
                yield Slices(stack)
                stack = []
        stream.finish()
        if stack:
            check_stack([entry for entry, _ in stack], stream.name)
        if count != shard.get("samples"):
            expected = shard.get("samples")
            raise ValueError(f"{stream.name}: has {count} samples instead of {expected} as in the manifest; restore it")


def entries(shards: str | Path, split: str) -> Iterator[SampleEntry]:
    """Iterate over all slices of a split, in the order of the shards; a shard is opened only when it is needed.

    Args:
        shards: a local folder, or its URL.
        split: train, val or test.
    """
    place = remote.checked_place(shards)
    manifest = remote.manifest_at(place)
    for shard in manifest["shards"][split]:
        for patient in patients(place, shard, set(manifest["split"][split])):
            yield from patient.samples


def _members(stream: ShardStream) -> Iterator[dict[str, Any]]:
    """The members of a shard as webdataset's `group_by_keys` expects them: fname, data, __url__."""
    names: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=BUFFER_BYTES) as tar:  # type: ignore[call-overload]  # it only reads
            for info in tar:
                check_plain(info, stream.name)
                known(info.name, stream.name)
                if info.name in names:
                    raise ValueError(f"{stream.name}: holds {info.name} twice; convert the data again")
                names.add(info.name)
                data = tar.extractfile(info)
                yield {"fname": info.name, "data": data.read() if data else b"", "__url__": stream.name}
                tar.members = []  # otherwise tarfile keeps all headers in memory
    except tarfile.TarError as error:
        stream.finish()  # if the size is wrong, this error is more precise
        raise ValueError(f"{stream.name}: is not a complete tar file ({error}); restore it or convert again") from error


def _decoded(sample: dict[str, Any], shard: str, where: str) -> tuple[SampleEntry, bytes]:
    """Return entry and bytes of a sample of webdataset, with the checks of a shard on the disk."""
    key, members = sample["__key__"], dict[str, Member]()
    parts = {kind: data for kind, data in sample.items() if not kind.startswith("__")}
    for kind, data in parts.items():
        members[kind] = Member(f"{key}.{kind}", sum(member.size for member in members.values()), len(data))
    whole = b"".join(parts.values())
    try:
        return entry_of(io.BytesIO(whole), shard, key, members), whole
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {error}; convert the data again") from error
