"""WebDataset shards of one split: cases are written in sequence and read by their positions in the file.

    FOLDER/manifest.json       counts, split, source, settings, shards
    FOLDER/train-000000.tar    samples of data/shards/samples.py; all slices of a patient are in one shard

Axes: H height, W width, D slices (in stored order), T phases of the cardiac cycle.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.case import CineCase
from data.shards.manifest import SPLITS, read_manifest
from data.shards.remote import local_folder
from data.shards.samples import KEPT, OPTIONAL, SampleEntry, list_samples
from data.shards.tar_index import NpyPlace
from utils.files import blake2b, sync

MAX_OPEN_SHARDS = 64


class ShardWriter:
    """Append cases to the shards of their splits; the bytes depend only on the cases and their order.

    Args:
        folder: folder of the shards.
        shard_bytes: size in bytes at which a shard is full and the next begins; all slices of a case are in one shard.
        shards: records of the shards of an interrupted writer; bytes after the recorded sizes are cut off.
    """

    def __init__(self, folder: Path, shard_bytes: int, shards: dict[str, list[dict[str, Any]]] | None = None) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards = shards or {split: [] for split in SPLITS}
        for record in (record for records in self.shards.values() for record in records):
            os.truncate(folder / record["file"], record["bytes"])

    def add(self, split: str, members: Iterable[tuple[str, bytes]]) -> dict[str, Any]:
        """Append one case to the last shard of a split, or to a new one.

        Args:
            split: train, val or test.
            members: (name, content) of all members, from `serialize`.
        Returns:
            The record of the shard: {file, bytes, samples}.
        """
        from webdataset import TarWriter  # imported here: it loads torch, which the rest of this file does not need

        records = self.shards[split]
        if not records or records[-1]["bytes"] >= self.shard_bytes:
            records.append({"file": f"{split}-{len(records):06d}.tar", "bytes": 0, "samples": 0})
        record = records[-1]
        with (self.folder / record["file"]).open("ab") as shard:
            # No time and no owner, so that equal cases give equal bytes.
            tar = TarWriter(shard, user="", group="", mode=0o644, mtime=0, compress=False, encoder=False)
            for name, data in members:
                key, _, suffix = name.partition(".")
                tar.write(
                    {"__key__": key, suffix: data}
                )  # one member per call, as TarWriter sorts the members of a call
                record["samples"] += suffix == "json"
            record["bytes"] += tar.tarstream.offset
            tar.close()
            shard.truncate(record["bytes"])  # remove the end-of-archive blocks, so that cases can follow
        sync(self.folder / record["file"])
        return dict(record)

    def close(self) -> dict[str, list[dict[str, Any]]]:
        """Finish all shards and return the shards of each split as {file, bytes, samples, blake2b}."""
        for record in (record for records in self.shards.values() for record in records):
            path = self.folder / record["file"]
            end = record["bytes"] + 2 * tarfile.BLOCKSIZE  # a tar file ends with two empty blocks, padded to a record
            os.truncate(path, end + -end % tarfile.RECORDSIZE)
            record["bytes"], record["blake2b"] = path.stat().st_size, blake2b(path)
        return self.shards


class SliceSample(NamedTuple):
    """Phases of one slice that were read.

    Args:
        entry: the sample as listed.
        cine: (T, H, W) stored values.
        masks: zero-based phase -> (H, W) uint8 labels, for the phases that were read.
    """

    entry: SampleEntry
    cine: np.ndarray
    masks: dict[int, np.ndarray]


class ShardReader:
    """The samples of one split, listed once from the tar headers and read by position.

    Args:
        folder: folder of manifest.json and the shards: a local folder, or a URL, whose files are downloaded first.
        split: train, val or test; it may be empty.
        cache_dir: folder for downloaded files, see data/shards/remote.py.
    Raises:
        OSError: when the manifest or a shard is missing or cannot be downloaded.
        ValueError: when a shard or a member, which is named, is damaged, unknown or unsafe.
    """

    def __init__(self, folder: str | Path, split: str, cache_dir: str | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.folder, self.split = local_folder(folder, split, cache_dir), split
        self.manifest = read_manifest(self.folder)
        entries = (e for shard in self.manifest["shards"][split] for e in list_samples(self.folder, shard))
        self.samples = sorted(entries, key=lambda e: (e.patient, e.slice))  # independent of the sizes of the shards
        self._files: dict[tuple[int, str], io.FileIO] = {}  # in the order of opening
        _check_stacks(self)

    def patients(self) -> dict[str, list[int]]:
        """Return patient -> indices of its samples, in the order of the slices."""
        indices: dict[str, list[int]] = {}
        for index, entry in enumerate(self.samples):
            indices.setdefault(entry.patient, []).append(index)
        return indices

    def read(self, index: int, times: Iterable[int] | None = None) -> SliceSample:
        """Read one slice; only the bytes of the requested phases are read.

        Args:
            index: index in `samples`.
            times: zero-based phases in any order, also repeated; None for all.
        Returns:
            The phases in the order of `times`.
        Raises:
            IndexError: for a phase out of range.
        """
        entry = self.samples[index]
        if times is None:
            times, cine = range(entry.phases), self._fill(entry, entry.cine)
        else:
            times = [int(time) for time in times]
            if wrong := [time for time in times if not 0 <= time < entry.phases]:
                raise IndexError(
                    f"{entry.key}: phase {wrong[0]} was requested, but the slice has {entry.phases} phases"
                )
            frame = NpyPlace(entry.cine.offset, entry.native_hw, entry.cine.dtype)
            cine = np.empty((len(times), *frame.shape), frame.dtype)
            for out, time in zip(cine, times, strict=True):
                self._fill(entry, frame._replace(offset=frame.offset + time * frame.size), out)
        masks = {time: self._fill(entry, place) for time, place in entry.masks.items() if time in times}
        return SliceSample(entry, cine, masks)

    def read_case(self, patient: str) -> CineCase:
        """Return the converted case of a patient, from all slices.

        Args:
            patient: name of the patient.
        Raises:
            KeyError: for a patient that is not in the split.
        """
        samples = [self.read(index) for index in self.patients()[patient]]
        info = samples[0].entry.info
        masks = {p: np.stack([s.masks[p] for s in samples], axis=-1) for p in samples[0].masks}
        cine = np.stack([s.cine for s in samples], axis=-1).transpose(1, 2, 3, 0)  # (T, H, W, D) -> (H, W, D, T)
        spacing = tuple(float(v) for v in info["spacing_mm"])
        return CineCase(
            patient, np.ascontiguousarray(cine), masks, (spacing[0], spacing[1], spacing[2]), np.array(info["affine"]),
            **{name: info[name] for name in KEPT}, **{name: info[name] for name in OPTIONAL if name in info},
        )  # fmt: skip

    def _fill(self, entry: SampleEntry, place: NpyPlace, out: np.ndarray | None = None) -> np.ndarray:
        """Read an array of a sample, into `out` if given."""
        out = np.empty(place.shape, place.dtype) if out is None else out
        shard = entry.shard
        handle = (os.getpid(), shard)  # a forked worker must not share a file position with its parent
        if handle not in self._files:
            if len(self._files) >= MAX_OPEN_SHARDS:
                self._files.pop(next(iter(self._files))).close()
            self._files[handle] = io.FileIO(self.folder / shard)
        self._files[handle].seek(place.offset)
        if self._files[handle].readinto(out.data) != place.size:
            raise ValueError(f"{self.folder / shard}: ends too early; restore the file or convert the data again")
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def _check_stacks(reader: ShardReader) -> None:
    """Check that the shards hold exactly the patients of the manifest, each with all slices."""
    stored, listed = reader.patients(), reader.manifest["split"][reader.split]
    if set(stored) != set(listed):
        differing = ", ".join(sorted(set(stored) ^ set(listed))[:5])
        raise ValueError(
            f"{reader.folder}: the {reader.split} patients of shards and manifest differ ({differing}); "
            "convert the data again"
        )
    for indices in stored.values():
        check_stack([reader.samples[i] for i in indices], reader.folder)


def check_stack(entries: list[SampleEntry], where: str | Path) -> None:
    """Check that the slices of one patient are complete, in order, and equal in shape, type and header fields.

    Args:
        entries: the samples of one patient.
        where: folder or shard, for the error message.
    Raises:
        ValueError: when a slice is missing or differs from the others.
    """
    kinds = {(e.cine.shape, e.cine.dtype, tuple(e.masks), json.dumps({**e.info, "slice": 0})) for e in entries}
    slices = entries[0].slices
    if len(kinds) > 1 or len(entries) != slices or [e.slice for e in entries] != list(range(slices)):
        content = f"{len(entries)} of {slices} slices, with {len(kinds)} different headers"
        raise ValueError(f"{where}: {entries[0].patient} has {content}; convert the data again")
