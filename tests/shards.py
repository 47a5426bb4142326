"""Small shards of made-up cases, for the tests of what reads them."""

from pathlib import Path

import numpy as np

from data.case import CineCase
from data.shards.manifest import SCHEMA_VERSION, SPLITS
from data.shards.reader import ShardWriter
from data.shards.samples import serialize
from utils.files import write_json


def made_up(number: int, slices: int, phases: int, ed: int | None = 1, es: int | None = 3) -> CineCase:
    """A noisy case with a bright block that is small at phase 3; labelled at ED and ES where they are known."""
    rng = np.random.default_rng(number)
    cine = rng.integers(0, 50, (20, 24, slices, phases)).astype(np.int16)
    cine[6:14, 8:18] += 200
    cine[6:10, 8:18, :, 3] -= 200
    mask = (cine > 150).astype(np.uint8) * 3
    masks = {phase: np.ascontiguousarray(mask[..., phase]) for phase in (ed, es) if phase is not None}
    return CineCase(
        f"patient{number:03d}", cine, masks, (1.5, 1.25, 8.0), np.diag([1.5, 1.25, 8.0, 1.0]), ed, es,
        "NOR", None, None, 1.0, 0.0, "none",
    )  # fmt: skip


def make_shards(folder: Path, train: list[CineCase], shard_bytes: int = 1) -> Path:
    """Shards of a training split; 1 byte closes a shard after each patient."""
    folder.mkdir(parents=True)
    writer = ShardWriter(folder, shard_bytes)
    for case in train:
        writer.add("train", serialize(case, "4d_mri"))
    split = {name: [case.patient for case in train] if name == "train" else [] for name in SPLITS}
    counts = {"train": {"frames": sum(case.cine.shape[2] * case.cine.shape[3] for case in train)}}
    manifest = {"schema_version": SCHEMA_VERSION, "counts": counts, "split": split, "shards": writer.close()}
    write_json(folder / "manifest.json", manifest)
    return folder
