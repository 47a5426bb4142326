"""manifest.json beside the shards: which patients and files belong to which split, and where they came from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from utils.files import read_json

SCHEMA_VERSION = 2  # 1 held windows of stored values
SPLITS = ("train", "val", "test")
NOTICE = "Research use only, not a medical device."


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read and check the manifest of a folder of shards.

    Args:
        folder: a local folder; nothing else, such as a URL or a `pipe:` command, is ever opened.
    Returns:
        schema_version, notice, counts, split {name: [patient]}, shards {name: [{file, bytes, samples, blake2b}]},
        source {name, patients {patient: hash}}, settings, seed, skipped [{patient, rule, reason}].
    Raises:
        FileNotFoundError: when there is none.
        ValueError: for another schema, a patient in two splits, or a shard name that the schema does not know.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; make the shards with scripts/convert_acdc_to_wds.py")
    return check_manifest(read_json(path), str(path))


def check_manifest(manifest: Any, path: str) -> dict[str, Any]:
    """Return a manifest's content if it is as `read_manifest` promises.

    Args:
        manifest: what the file holds.
        path: of the file, for errors.
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
    seen: dict[str, str] = {}
    for name in SPLITS:
        for patient in manifest["split"][name]:
            if not isinstance(patient, str):
                raise ValueError(f"{path}: a name in `split` is {patient!r:.80}, expected text; convert the data again")
            if seen.setdefault(patient, name) != name:
                raise ValueError(f"{path}: {patient} is in both {seen[patient]} and {name}; convert the data again")
        for shard in manifest["shards"][name]:
            file, size = (shard.get("file"), shard.get("bytes")) if isinstance(shard, dict) else (shard, None)
            named = isinstance(file, str) and re.fullmatch(rf"{name}-[0-9]{{6}}\.tar", file)
            if not named or type(size) is not int or size < 0:
                raise ValueError(f"{path}: refused the shard {file!r}, expected e.g. {name}-000000.tar and its bytes")
    return manifest
