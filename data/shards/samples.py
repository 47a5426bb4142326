"""Format of a sample (the cine of one slice): writing, reading and checks.

    patient001_z03.cine.npy       (T, H, W) native stored values
    patient001_z03.mask_ed.npy    (H, W) uint8, if ED is labelled; mask_es.npy likewise
    patient001_z03.json           see FIELDS

Nothing is unpickled, and no name from a file becomes a path: members and keys must match the format.
Axes: H height, W width, D slices (in stored order), T phases of the cardiac cycle.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data.case import (
    INTERCEPT,
    LENGTH_UNITS,
    MM,
    SLOPE,
    SPACING_MM,
    STORED_TYPES,
    TIME_UNITS,
    CaseRefused,
    CineCase,
)
from data.preprocess import Placement, place
from data.shards.tar_index import Member, NpyPlace, list_members, npy_place, read_json_member
from data.window import is_usable
from utils.metrics import SSIM_WINDOW

MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.(cine\.npy|mask_ed\.npy|mask_es\.npy|json)")
KEPT = (  # as in CineCase
    *("ed", "es", "group", "height_cm", "weight_kg", "slope", "intercept", "source_hash", "time_step", "time_unit"),
)
OPTIONAL = {"stored_type": None, "length_unit": MM}  # as in CineCase; written only where they differ from these
FIELDS = (
    "patient", "slice", "slices", "phases", "spacing_mm", "affine", "window", "center", *KEPT, "modality",
)  # fmt: skip


def serialize(case: CineCase, modality: str, placement: Placement | None = None) -> list[tuple[str, bytes]]:
    """Return all members of one case as (name, bytes), slice by slice.

    Args:
        case: one patient; masks of phases other than ED and ES are not written.
        modality: name of the kind of data in the source, e.g. `4d_mri`.
        placement: window and center of the case, if already computed.
    Returns:
        List of (member name, content).
    Raises:
        CaseRefused: for an empty window, or frames too small for SSIM.
    """
    if min(case.cine.shape[:2]) < SSIM_WINDOW:
        message = (
            f"frames are {case.cine.shape[0]} x {case.cine.shape[1]} pixels, expected {SSIM_WINDOW} x {SSIM_WINDOW}"
        )
        raise CaseRefused("too_small", case.patient, f"{message} or more for SSIM; exclude the case")
    window, center = placement or place(case)
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
        more = {name: getattr(case, name) for name, usual in OPTIONAL.items() if getattr(case, name) != usual}
        members.append((f"{key}.json", json.dumps({**dict(zip(FIELDS, values, strict=True)), **more}).encode()))
    return members


def sample_key(patient: str, z: int) -> str:
    """Return the key of a sample, e.g. `patient001_z03`.

    Args:
        patient: name of the patient.
        z: zero-based slice.
    """
    return f"{patient}_z{z:02d}"


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    np.lib.format.write_array(stream, little, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


@dataclass(frozen=True)
class SampleEntry:
    """A sample as listed in the shards, without its values.

    Args:
        key: e.g. `patient001_z03`.
        shard: file name of the shard.
        cine: position of the (T, H, W) values in the shard.
        masks: zero-based phase -> position of the (H, W) labels.
        info: content of the JSON, see FIELDS.
    """

    key: str
    shard: str
    cine: NpyPlace
    masks: dict[int, NpyPlace]
    info: dict[str, Any]

    @property
    def patient(self) -> str:
        """Name of the patient."""
        return str(self.info["patient"])

    @property
    def slice(self) -> int:
        """Zero-based index of this slice."""
        return int(self.info["slice"])

    @property
    def slices(self) -> int:
        """D, number of slices of the patient."""
        return int(self.info["slices"])

    @property
    def phases(self) -> int:
        """T, number of phases."""
        return self.cine.shape[0]

    @property
    def native_hw(self) -> tuple[int, int]:
        """Native (H, W) in pixels."""
        return self.cine.shape[1], self.cine.shape[2]


def list_samples(folder: Path, shard: dict[str, Any]) -> list[SampleEntry]:
    """List the samples of one shard from its tar headers and JSON members.

    Args:
        folder: folder of the shard.
        shard: record of the manifest with `file` and `bytes`.
    Returns:
        The samples in the order of the shard.
    Raises:
        FileNotFoundError: when the shard is missing.
        ValueError: when a member, which is named, is damaged, unknown or unsafe.
    """
    path = folder / shard["file"]
    samples: dict[str, dict[str, Member]] = {}
    for member in list_members(path, shard["bytes"]):
        key, kind = known(member.name, path)
        if samples.setdefault(key, {}).setdefault(kind, member) is not member:
            raise ValueError(f"{path}: holds {member.name} twice; convert the data again")
    with path.open("rb") as stream:
        try:
            return [entry_of(stream, shard["file"], key, members) for key, members in samples.items()]
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}; convert the data again") from error


def known(name: str, where: str | Path) -> tuple[str, str]:
    """Split a member's name into key and kind, e.g. (patient001_z03, cine.npy).

    Args:
        name: name of the member.
        where: shard, for the error message.
    Returns:
        The key of the sample and the kind of the member.
    Raises:
        ValueError: for an unknown name.
    """
    match = MEMBER.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{where}: refused the member {name!r}, expected e.g. patient001_z03.cine.npy; convert the data again"
        )
    return match[1], match[2]


def entry_of(stream: BinaryIO, shard: str, key: str, members: dict[str, Member]) -> SampleEntry:
    """Read and check the JSON of one sample and the headers of its arrays.

    Args:
        stream: the shard.
        shard: file name of the shard.
        key: key of the sample.
        members: kind, such as cine.npy -> member.
    Returns:
        The checked sample.
    Raises:
        ValueError: when a member, which is named, is missing, damaged, unknown or unsafe.
    """
    if missing := {"cine.npy", "json"} - set(members):
        raise ValueError(f"{key} lacks {', '.join(sorted(missing))}")
    info = read_json_member(stream, members["json"])
    if not isinstance(info, dict) or set(info) - set(OPTIONAL) != set(FIELDS):
        raise ValueError(f"{key}.json must be an object with the fields {', '.join(FIELDS)}")
    cine = npy_place(stream, members["cine.npy"])
    phases, slices, z = info["phases"], info["slices"], info["slice"]
    if type(phases) is not int or len(cine.shape) != 3 or min(cine.shape) < 1 or cine.shape[0] != phases:
        raise ValueError(f"{key}: the cine has shape {cine.shape}, expected (T, H, W) with T = phases = {phases!r}")
    if not (type(z) is type(slices) is int and 0 <= z < slices and key == sample_key(str(info["patient"]), z)):
        raise ValueError(
            f"{key}.json describes slice {z!r} of {slices!r} of {info['patient']!r}, expected the slice of its key"
        )
    masks = {}
    for name, phase in (("mask_ed.npy", info["ed"]), ("mask_es.npy", info["es"])):
        if phase is not None and not (type(phase) is int and 0 <= phase < phases):
            raise ValueError(f"{key}.json has the ED or ES phase {phase!r}, expected null or 0 to {phases - 1}")
        if name in members:
            place = npy_place(stream, members[name])
            if phase is None or place.shape != cine.shape[1:] or place.dtype != np.uint8:
                raise ValueError(
                    f"{key}.{name} is {place.dtype} of shape {place.shape} for phase {phase}, expected uint8 of shape "
                    f"{cine.shape[1:]} for a given phase"
                )
            masks[phase] = place
    _check_numbers(key, info)
    _check_texts(key, info)
    _check_optional(key, info)
    return SampleEntry(key, shard, cine, masks, info)


def _check_numbers(key: str, info: dict[str, Any]) -> None:
    for name, count in (("window", 2), ("center", 2), ("spacing_mm", 3)):
        values = info[name]
        if not (isinstance(values, list) and len(values) == count and all(_is_number(v) for v in values)):
            raise ValueError(f"{key}.json has {name} {values!r}, expected {count} finite numbers")
    for name in ("height_cm", "weight_kg"):
        if info[name] is not None and not (_is_number(info[name]) and info[name] > 0):
            raise ValueError(f"{key}.json has {name} {info[name]!r:.80}, expected null or a number above 0")
    rows = info["affine"] if isinstance(info["affine"], list) else []
    if len(rows) != 4 or not all(isinstance(row, list) and len(row) == 4 and all(map(_is_number, row)) for row in rows):
        raise ValueError(f"{key}.json has affine {info['affine']!r:.80}, expected 4 rows of 4 finite numbers")
    scale = info["slope"], info["intercept"]
    if not (all(map(_is_number, scale)) and scale[0] in SLOPE and scale[1] in INTERCEPT):
        text = f"slope {scale[0]!r:.80} and intercept {scale[1]!r:.80}"
        raise ValueError(f"{key}.json has {text}, expected finite numbers and a slope above 0")
    if not (_is_number(info["time_step"]) and info["time_step"] >= 0 and info["time_unit"] in list(TIME_UNITS)):
        time = f"time_step {info['time_step']!r:.80} of unit {info['time_unit']!r:.80}"
        raise ValueError(f"{key}.json has {time}, expected a number from 0 and a unit of {list(TIME_UNITS)}")
    if not is_usable(*info["window"]) or not all(edge in SPACING_MM for edge in info["spacing_mm"]):
        raise ValueError(
            f"{key}.json has window {info['window']} and spacing_mm {info['spacing_mm']}, expected a window with "
            "low < high and a spacing of 1e-4 to 1e4 mm"
        )


def _check_texts(key: str, info: dict[str, Any]) -> None:
    if not isinstance(info["patient"], str) or not isinstance(info["group"], str | None):
        raise ValueError(f"{key}.json has patient {info['patient']!r} and group {info['group']!r:.80}, expected texts")
    if not all(isinstance(info[name], str) for name in ("modality", "source_hash")):
        text = f"modality {info['modality']!r:.80} and source_hash {info['source_hash']!r:.80}"
        raise ValueError(f"{key}.json has {text}, expected texts")


def _check_optional(key: str, info: dict[str, Any]) -> None:
    stored_type, unit = (info.get(name, usual) for name, usual in OPTIONAL.items())
    if stored_type is not None and stored_type not in STORED_TYPES:
        raise ValueError(f"{key}.json has stored_type {stored_type!r:.80}, expected one of {', '.join(STORED_TYPES)}")
    if type(unit) is not int or unit not in LENGTH_UNITS:
        raise ValueError(f"{key}.json has length_unit {unit!r:.80}, expected one of {list(LENGTH_UNITS)}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # false for NaN too
