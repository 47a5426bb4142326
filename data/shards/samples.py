"""The schema of a sample, one slice's cine, written and read in one file.

    patient001_z03.cine.npy       (T, H, W) native stored values
    patient001_z03.mask_ed.npy    (H, W) uint8, where ED is labelled; mask_es.npy likewise
    patient001_z03.json           see FIELDS

Nothing is ever unpickled and no name read here becomes a path: members and keys must match the schema.
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

from data.case import CaseRefused, CineCase
from data.preprocess import Placement, place
from data.shards.tar_index import Member, NpyPlace, list_members, npy_place, read_json_member
from utils.metrics import SSIM_WINDOW

MEMBER = re.compile(r"([A-Za-z0-9_-]+)\.(cine\.npy|mask_ed\.npy|mask_es\.npy|json)")
KEPT = ("ed", "es", "group", "height_cm", "weight_kg", "slope", "intercept", "source_hash")  # as in CineCase
FIELDS = (
    "patient", "slice", "slices", "phases", "spacing_mm", "affine", "window", "center", *KEPT, "modality",
)  # fmt: skip


def serialize(case: CineCase, modality: str, placement: Placement | None = None) -> list[tuple[str, bytes]]:
    """All members of one case, (name, bytes), slice by slice.

    Args:
        case: the patient; masks of phases other than ED and ES have no place in the schema and stay behind.
        modality: what the source calls this kind of data, e.g. `4d_mri`.
        placement: of the case, where it is known already.
    Raises:
        CaseRefused: for an empty window, or frames too small to be scored.
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


def list_samples(folder: Path, shard: dict[str, Any]) -> list[SampleEntry]:
    """List the samples of one shard from its headers and JSON, refusing whatever the schema does not know.

    Args:
        folder: holds the shard.
        shard: as the manifest describes it, of which `file` and `bytes` are needed.
    Raises:
        FileNotFoundError: when it is missing.
        ValueError: naming the shard and member when something is damaged, unknown or unsafe.
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
    """Key and kind of a member, such as (patient001_z03, cine.npy); a name that the schema does not know is refused."""
    match = MEMBER.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{where}: refused the member {name!r}, which the schema does not know; convert the data again"
        )
    return match[1], match[2]


def entry_of(stream: BinaryIO, shard: str, key: str, members: dict[str, Member]) -> SampleEntry:
    """Read and check one sample's JSON and the headers of its arrays.

    Args:
        stream: holds the members at their places.
        shard: file name of the shard.
        key: of the sample.
        members: by their kind, such as cine.npy.
    Raises:
        ValueError: naming the member when something is missing, damaged, unknown or unsafe.
    """
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
    for name in ("height_cm", "weight_kg"):
        if info[name] is not None and not _is_number(info[name]):
            raise ValueError(f"{key}.json has {name} {info[name]!r}, expected null or a finite number")
    if not (_is_number(info["slope"]) and info["slope"] > 0 and _is_number(info["intercept"])):
        scale = f"slope {info['slope']!r:.80} and intercept {info['intercept']!r:.80}"
        raise ValueError(f"{key}.json has {scale}, expected finite numbers, the slope above 0")
    if not isinstance(info["patient"], str) or not isinstance(info["group"], str | None):
        raise ValueError(f"{key}.json has patient {info['patient']!r} and group {info['group']!r:.80}, expected texts")
    low, high = info["window"]
    # Narrower than float32 tells apart, a window makes infinities of a picture.
    if high - low <= max(1e-12, 1e-6 * max(abs(low), abs(high))) or not 1e-4 <= min(info["spacing_mm"]) <= 1e4:
        raise ValueError(f"{key}.json has window {info['window']} and spacing_mm {info['spacing_mm']}: an empty range")
    return SampleEntry(key, shard, cine, masks, info)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # false for NaN too
