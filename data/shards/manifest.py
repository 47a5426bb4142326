"""manifest.json beside the shards: the patients and shards of each split, and their source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from utils.files import read_json

SCHEMA_VERSION = 3  # version 2 had no time step
SPLITS = ("train", "val", "test")
NOTICE = "Research use only, not a medical device."


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and check the manifest of a folder of shards.

    Args:
        folder: a local folder; URLs and `pipe:` commands are never opened.
    Returns:
        schema_version, notice, counts, split {name: [patient]}, shards {name: [{file, bytes, samples, blake2b}]},
        source {name, patients {patient: hash}}, settings, seed, skipped [{patient, rule, reason}].
    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for another schema version, a patient in two splits, or an invalid shard name.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make the shards with scripts/convert_acdc_to_wds.py")
    return check_manifest(read_json(path), str(path))


def check_manifest(manifest: Any, path: str) -> dict[str, Any]:
    """Check the content of a manifest and return it.

    Args:
        manifest: content of the file.
        path: path of the file, for error messages.
    Returns:
        The same content.
    Raises:
        ValueError: see `read_manifest`.
    """
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise ValueError(f"{path}: schema_version is {version}, expected {SCHEMA_VERSION}; convert the data again")
    for field in ("split", "shards"):
        lists = manifest.get(field)
        if not isinstance(lists, dict) or not all(isinstance(lists.get(name), list) for name in SPLITS):
            raise ValueError(f"{path}: `{field}` must list train, val and test; convert the data again")
    split_of: dict[str, str] = {}
    for name in SPLITS:
        for patient in manifest["split"][name]:
            if not isinstance(patient, str):
                raise ValueError(f"{path}: a name in `split` is {patient!r:.80}, expected text; convert the data again")
            if split_of.setdefault(patient, name) != name:
                raise ValueError(f"{path}: {patient} is in both {split_of[patient]} and {name}; convert the data again")
        for shard in manifest["shards"][name]:
            file, size = (shard.get("file"), shard.get("bytes")) if isinstance(shard, dict) else (shard, None)
            named = isinstance(file, str) and re.fullmatch(rf"{name}-[0-9]{{6}}\.tar", file)
            if not named or type(size) is not int or size < 0:
                raise ValueError(f"{path}: refused the shard {file!r}, expected e.g. {name}-000000.tar and its bytes")
    return manifest
