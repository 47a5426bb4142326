"""Results of compare_codecs.py that are kept as they come, so that the same command continues an interrupted one.

    OUTPUT_DIR/finished/KEY.json    one patient at one point: the inputs, and the row of the report

KEY is a hash of all inputs of the result: the patient and its shards, the field, the segmenters, the codec or model
with its setting, and the code. A result of other inputs has another key and is never read.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modeling.titok import TiTok
from scripts.evaluation.segmenters import Opened
from utils.checkpoint import hash_weights
from utils.files import blake2b, jsonable, write_text

FOLDER = "finished"
NAME = re.compile(r"[0-9a-f]{32}\.json")
CODE = ("data", "modeling", "scripts/evaluation", "scripts/files", "utils")  # what results depend on
PACKAGES = ("av", "imagecodecs", "numpy", "scipy", "torch")
Row = dict[str, Any]


class Finished:
    """Results on disk.

    Args:
        folder: output folder of the comparison.
        shared: inputs that all results have in common.
    """

    def __init__(self, folder: Path, shared: Mapping[str, Any]) -> None:
        self.folder, self.shared = folder / FOLDER, jsonable(dict(shared))

    def load(self, inputs: Mapping[str, Any]) -> Row | None:
        """Return the row of a result; None if it is not kept or its file is damaged.

        Args:
            inputs: inputs of this result, without those that all results have in common.
        """
        path = self._path(inputs)
        if not path.is_file():
            return None
        try:
            row = json.loads(path.read_text("utf-8"))["row"]
        except (ValueError, KeyError, TypeError):
            return None
        return row if isinstance(row, dict) else None

    def save(self, inputs: Mapping[str, Any], row: Row) -> None:
        """Write a row, atomically; NaN and infinities are written as such."""
        content = {"inputs": {**self.shared, **jsonable(dict(inputs))}, "row": row}
        write_text(self._path(inputs), json.dumps(content, default=lambda value: value.tolist()) + "\n")

    def report(self, wanted: Sequence[Mapping[str, Any]]) -> None:
        """Print how many of the wanted results are kept, and how many kept results are of other inputs."""
        kept = {path.name for path in self.folder.glob("*.json") if NAME.fullmatch(path.name)}
        names = {self._path(inputs).name for inputs in wanted}
        usable, other = len(kept & names), len(kept - names)
        if usable:
            print(f"{usable} of {len(names)} results were found in {self.folder} and are not computed again")
        if other:
            print(f"{other} results in {self.folder} are of other data, methods, settings or code and are not used")

    def _path(self, inputs: Mapping[str, Any]) -> Path:
        text = json.dumps([self.shared, jsonable(dict(inputs))], sort_keys=True)
        return self.folder / f"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}.json"


def shared_inputs(
    manifest: Mapping[str, Any], split: str, field: tuple[int, str], segmenters: Sequence[Opened], device: str
) -> dict[str, Any]:
    """Return the inputs that all results of a comparison have in common.

    Args:
        manifest: of the shards, with the hashes of their files.
        split: of the patients.
        field: image size and geometry.
        segmenters: reference segmenters; their order counts, since tables show the first one.
        device: cpu or cuda; the last digits of a model depend on it.
    """
    return {
        "data": _hash(manifest),
        "split": split,
        "field": field,
        "segmenters": [[one.segmenter.name, sorted(one.lineage), one.settings] for one in segmenters],
        "device": device,
        "code": code_hash(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def model_hash(model: TiTok) -> str:
    """Hash of all weights and options of a model."""
    return _hash([asdict(model.config), hash_weights(model.state_dict()), model.token_counts])


def code_hash() -> str:
    """Hash of the Python files that results depend on."""
    root = Path(__file__).resolve().parents[2]
    files = sorted(path for part in CODE for path in (root / part).rglob("*.py"))
    return _hash([[path.relative_to(root).as_posix(), blake2b(path)] for path in files])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hash(content: Any) -> str:
    text = json.dumps(jsonable(content), sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
