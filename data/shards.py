"""WebDataset shards of cine slices: the sample schema, written and read in one file.

    FOLDER/manifest.json                      counts, split, source, settings, shards
    FOLDER/train-000000.tar                   a patient's slices stand together in one shard
        patient001_z03.cine.npy               (T, H, W) native stored values
        patient001_z03.mask_ed.npy            (H, W) uint8, where ED is labelled; mask_es.npy likewise
        patient001_z03.json                   see FIELDS

Nothing is ever unpickled and no name read here becomes a path: members, keys and shard names must match the schema.
Axes: H height, W width, D slices (in stored order), T phases of the cardiac cycle.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from data.case import CineCase
from data.manifest import SPLITS, read_manifest
from data.preprocess import heart_center, window_of
from data.remote import local_folder
from data.tar_index import Member, NpyPlace, list_members, npy_place, read_json_member
from utils.files import blake2b

MAX_OPEN_SHARDS = 64
MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.(cine\.npy|mask_ed\.npy|mask_es\.npy|json)")
KEPT = ("ed", "es", "group", "height_cm", "weight_kg", "slope", "intercept", "source_hash")  # as in CineCase
FIELDS = (
    "patient", "slice", "slices", "phases", "spacing_mm", "affine", "window", "center", *KEPT, "modality",
)  # fmt: skip


def serialize(case: CineCase, modality: str) -> list[tuple[str, bytes]]:
    """All members of one case, (name, bytes), slice by slice.

    Args:
        case: the patient; masks of phases other than ED and ES have no place in the schema and stay behind.
        modality: what the source calls this kind of data, e.g. `4d_mri`.
    """
    window = window_of(case.cine, zero=-case.intercept / case.slope)
    center = heart_center(case.cine)
    slices, phases = case.cine.shape[2:]
    members = []
    for z in range(slices):
        key = sample_key(case.patient, z)
        members.append((f"{key}.cine.npy", _npy(case.cine[:, :, z].transpose(2, 0, 1))))
        for name, phase in (("mask_ed", case.ed), ("mask_es", case.es)):
            if phase is not None and phase in case.masks:
                members.append((f"{key}.{name}.npy", _npy(case.masks[phase][:, :, z])))
        values = (
            case.patient, z, slices, phases, case.spacing_mm, case.affine.tolist(), window, center,
            *(getattr(case, name) for name in KEPT), modality,
        )  # fmt: skip
        members.append((f"{key}.json", json.dumps(dict(zip(FIELDS, values, strict=True))).encode()))
    return members


def sample_key(patient: str, z: int) -> str:
    """Key of one slice's cine, e.g. `patient001_z03`."""
    return f"{patient}_z{z:02d}"


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    np.lib.format.write_array(stream, little, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


class ShardWriter:
    """Appends cases to the shards of their splits; the bytes depend on the cases and their order alone.

    Args:
        folder: where the shards go.
        shard_bytes: a shard that has reached this size is closed; a case is never cut in two.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._open: dict[str, tarfile.TarFile] = {}

    def add(self, split: str, members: Iterable[tuple[str, bytes]]) -> None:
        """Append the members of one case, as `serialize` gives them."""
        if split not in self._open:
            name = f"{split}-{len(self.shards[split]):06d}.tar"
            shard = tarfile.open(self.folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - open till full
            self._open[split] = shard
            self.shards[split].append({"file": name, "bytes": 0, "samples": 0})
        shard, record = self._open[split], self.shards[split][-1]
        for name, data in members:
            header = tarfile.TarInfo(name)  # time 0 and owner 0, so that equal cases give equal bytes
            header.size = len(data)
            shard.addfile(header, io.BytesIO(data))
            record["samples"] += name.endswith(".json")
        if shard.offset >= self.shard_bytes:
            self._close(split)

    def close(self) -> dict[str, list[dict[str, Any]]]:
        """Finish all shards; returns for each split its shards as {file, bytes, samples, blake2b}."""
        for split in list(self._open):
            self._close(split)
        return self.shards

    def _close(self, split: str) -> None:
        self._open.pop(split).close()
        record = self.shards[split][-1]
        path = self.folder / record["file"]
        record["bytes"], record["blake2b"] = path.stat().st_size, blake2b(path)


@dataclass(frozen=True)
class SampleEntry:
    """One slice's cine as listed in the shards; its values are still on disk.

    Args:
        key: e.g. `patient001_z03`.
        shard: file name of its shard.
        cine: place of the (T, H, W) values.
        masks: zero-based phase -> place of the (H, W) labels.
        info: the sample's JSON, see FIELDS.
    """

    key: str
    shard: str
    cine: NpyPlace
    masks: dict[int, NpyPlace]
    info: dict[str, Any]

    @property
    def patient(self) -> str:
        return str(self.info["patient"])

    @property
    def slice(self) -> int:
        return int(self.info["slice"])

    @property
    def slices(self) -> int:
        return int(self.info["slices"])

    @property
    def phases(self) -> int:
        return self.cine.shape[0]

    @property
    def native_hw(self) -> tuple[int, int]:
        return self.cine.shape[1], self.cine.shape[2]


class SliceSample(NamedTuple):
    """Phases of one slice: (T, H, W) stored values, and zero-based phase -> (H, W) uint8 labels of those read."""

    entry: SampleEntry
    cine: np.ndarray
    masks: dict[int, np.ndarray]


class ShardReader:
    """The samples of one split, listed from the tar headers once and read from their places afterwards.

    Args:
        folder: holds manifest.json and the shards; a local folder, or a URL whose files are copied here first.
        split: train, val or test; it may be empty.
        cache_dir: where the copies of a URL are kept, see data/remote.py.
    Raises:
        OSError: when the manifest or a shard is missing or cannot be fetched.
        ValueError: naming the shard and member when something is damaged, unknown or unsafe.
    """

    def __init__(self, folder: str | Path, split: str, cache_dir: str | None = None) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}, expected one of {', '.join(SPLITS)}")
        self.folder, self.split = local_folder(folder, split, cache_dir), split
        self.manifest = read_manifest(self.folder)
        entries = (e for shard in self.manifest["shards"][split] for e in _scan(self.folder, shard))
        self.samples = sorted(entries, key=lambda e: (e.patient, e.slice))  # whatever the sizes of the shards
        self._files: dict[tuple[int, str], io.FileIO] = {}  # the least recently opened first
        _check_stacks(self)

    def patients(self) -> dict[str, list[int]]:
        """Patient -> indices of its samples in stack order."""
        found: dict[str, list[int]] = {}
        for index, entry in enumerate(self.samples):
            found.setdefault(entry.patient, []).append(index)
        return found

    def read(self, index: int, times: Iterable[int] | None = None) -> SliceSample:
        """Read one slice; of phases that are not asked for not a byte is touched.

        Args:
            index: of `samples`.
            times: phases in the order wanted, some perhaps twice; None for all.
        Raises:
            IndexError: for a phase that the slice does not have.
        """
        entry = self.samples[index]
        if times is None:
            times, cine = range(entry.phases), self._fill(entry.shard, entry.cine)
        else:
            times = [int(time) for time in times]
            if wrong := [time for time in times if not 0 <= time < entry.phases]:
                raise IndexError(f"{entry.key}: phase {wrong[0]} asked for, but it has {entry.phases} phases")
            frame = NpyPlace(entry.cine.offset, entry.native_hw, entry.cine.dtype)
            cine = np.empty((len(times), *frame.shape), frame.dtype)
            for out, time in zip(cine, times, strict=True):
                self._fill(entry.shard, frame._replace(offset=frame.offset + time * frame.size), out)
        masks = {time: self._fill(entry.shard, place) for time, place in entry.masks.items() if time in times}
        return SliceSample(entry, cine, masks)

    def read_case(self, patient: str) -> CineCase:
        """Put a patient's slices back into the case that was converted."""
        samples = [self.read(index) for index in self.patients()[patient]]
        info = samples[0].entry.info
        masks = {p: np.stack([s.masks[p] for s in samples], axis=-1) for p in samples[0].masks}
        cine = np.stack([s.cine for s in samples], axis=-1).transpose(1, 2, 3, 0)  # (T, H, W, D) -> (H, W, D, T)
        spacing = tuple(float(v) for v in info["spacing_mm"])
        return CineCase(
            patient, np.ascontiguousarray(cine), masks, (spacing[0], spacing[1], spacing[2]), np.array(info["affine"]),
            **{name: info[name] for name in KEPT},
        )  # fmt: skip

    def _fill(self, shard: str, place: NpyPlace, out: np.ndarray | None = None) -> np.ndarray:
        """Read an array, into `out` where given."""
        out = np.empty(place.shape, place.dtype) if out is None else out
        handle = (os.getpid(), shard)  # a forked worker must not share a file position with its parent
        if handle not in self._files:
            if len(self._files) >= MAX_OPEN_SHARDS:
                self._files.pop(next(iter(self._files))).close()
            self._files[handle] = io.FileIO(self.folder / shard)
        self._files[handle].seek(place.offset)
        if self._files[handle].readinto(out.data) != place.size:
            raise ValueError(f"{self.folder / shard}: ends early; restore it or convert again")
        return out

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}


def _scan(folder: Path, shard: dict[str, Any]) -> list[SampleEntry]:
    """List the samples of one shard, refusing whatever the schema does not know."""
    path = folder / shard["file"]
    samples: dict[str, dict[str, Member]] = {}
    for member in list_members(path, shard["bytes"]):
        match = MEMBER.fullmatch(member.name)
        if match is None:
            raise ValueError(f"{path}: refused the member {member.name!r}, which the schema does not know")
        if samples.setdefault(match[1], {}).setdefault(match[2], member) is not member:
            raise ValueError(f"{path}: holds {member.name} twice; convert the data again")
    with path.open("rb") as stream:
        try:
            return [_entry(stream, shard["file"], key, members) for key, members in samples.items()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}; convert the data again") from error


def _entry(stream: BinaryIO, shard: str, key: str, members: dict[str, Member]) -> SampleEntry:
    if missing := {"cine.npy", "json"} - set(members):
        raise ValueError(f"{key} lacks {', '.join(sorted(missing))}")
    info = read_json_member(stream, members["json"])
    if not isinstance(info, dict) or set(info) != set(FIELDS):
        raise ValueError(f"{key}.json must be an object with the fields {', '.join(FIELDS)}")
    cine = npy_place(stream, members["cine.npy"])
    phases, slices, z = info["phases"], info["slices"], info["slice"]
    if type(phases) is not int or len(cine.shape) != 3 or min(cine.shape) < 1 or cine.shape[0] != phases:
        raise ValueError(f"{key}: cine of shape {cine.shape} and phases {phases!r} do not agree")
    if not (type(z) is type(slices) is int and 0 <= z < slices and key == sample_key(str(info["patient"]), z)):
        raise ValueError(f"{key}.json belongs to slice {z!r} of {slices!r} of {info['patient']!r}")
    masks = {}
    for name, phase in (("mask_ed.npy", info["ed"]), ("mask_es.npy", info["es"])):
        if phase is not None and not (type(phase) is int and 0 <= phase < phases):
            raise ValueError(f"{key}.json has the key frame {phase!r}, expected null or 0 to {phases - 1}")
        if name in members:
            place = npy_place(stream, members[name])
            if phase is None or place.shape != cine.shape[1:] or place.dtype != np.uint8:
                raise ValueError(f"{key}.{name} is {place.dtype} {place.shape} of phase {phase}, the cine {cine.shape}")
            masks[phase] = place
    for name, count in (("window", 2), ("center", 2), ("spacing_mm", 3)):
        values = info[name]
        if not (isinstance(values, list) and len(values) == count and all(_is_number(v) for v in values)):
            raise ValueError(f"{key}.json has {name} {values!r}, expected {count} finite numbers")
    if info["window"][1] <= info["window"][0] or min(info["spacing_mm"]) <= 0:
        raise ValueError(f"{key}.json has window {info['window']} and spacing_mm {info['spacing_mm']}: an empty range")
    return SampleEntry(key, shard, cine, masks, info)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # false for NaN too


def _check_stacks(reader: ShardReader) -> None:
    """Every patient of the manifest must be there with all slices, and no other."""
    found, listed = reader.patients(), reader.manifest["split"][reader.split]
    if set(found) != set(listed):
        odd = ", ".join(sorted(set(found) ^ set(listed))[:5])
        raise ValueError(f"{reader.folder}: shards and manifest disagree on {reader.split} ({odd}); convert again")
    for patient, indices in found.items():
        entries = [reader.samples[i] for i in indices]
        kinds = {(e.cine.shape, e.cine.dtype, tuple(e.masks), json.dumps({**e.info, "slice": 0})) for e in entries}
        slices = entries[0].slices
        if len(kinds) > 1 or len(entries) != slices or [e.slice for e in entries] != list(range(slices)):
            found_slices = f"{len(entries)} of {slices} slices, of {len(kinds)} kinds"
            raise ValueError(f"{reader.folder}: {patient} has {found_slices}; convert the data again")
