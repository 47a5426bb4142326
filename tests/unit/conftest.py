"""A small ACDC folder, and shards made of it, for the tests of whatever reads data."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data.shards.manifest import SCHEMA_VERSION
from data.shards.reader import ShardWriter
from data.shards.samples import serialize
from data.sources.acdc import AcdcSource
from utils.files import write_json


def save_nifti(path: Path, values: np.ndarray, spacing_mm: tuple[float, float, float] = (1.5, 1.25, 8.0)) -> None:
    """Write as ACDC does: a sform of unit spacing beside zooms and a qform that tell the truth."""
    header = nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header.set_qform(np.diag([-spacing_mm[0], -spacing_mm[1], spacing_mm[2], 1.0]), code=1)
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    nib.save(nib.Nifti1Image(values, None, header), path)  # with an affine, nibabel would mend the sform


def write_patient(
    folder: Path,
    hwd: tuple[int, int, int] = (20, 24, 2),
    phases: int = 5,
    ed: int = 2,
    es: int = 4,
    group: str | None = "NOR",
    seed: int = 0,
) -> Path:
    """Write one patient; a bright disk (LV) that shrinks towards `es`. Frames are one-based, as in Info.cfg."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows, cols = np.ogrid[: hwd[0], : hwd[1]]
    radius = 5 - 3 * np.sin(np.pi * (np.arange(phases) - ed + 1) / phases) ** 2
    disk = ((rows - 8) ** 2 + (cols - 13) ** 2)[:, :, None, None] < radius**2
    cine = rng.integers(0, 20, (*hwd, phases)) + 200 * disk
    cine = np.broadcast_to(cine, (*hwd, phases)).astype(np.int16)
    name = folder.name
    save_nifti(folder / f"{name}_4d.nii.gz", cine)
    for frame in (ed, es):
        labels = np.broadcast_to(disk[..., frame - 1] * 3, hwd).astype(np.uint8)
        save_nifti(folder / f"{name}_frame{frame:02d}.nii.gz", np.ascontiguousarray(cine[..., frame - 1]))
        save_nifti(folder / f"{name}_frame{frame:02d}_gt.nii.gz", np.ascontiguousarray(labels))
    lines = [f"ED: {ed}", f"ES: {es}", f"Group: {group}", "Height: 170.0", f"NbFrame: {phases}", "Weight: 70.5"]
    (folder / "Info.cfg").write_text("\n".join(line for line in lines if not line.endswith("None")) + "\n")
    return folder


@pytest.fixture
def acdc_patient() -> Callable[..., Path]:
    """A function that writes one ACDC patient: `acdc_patient(folder, phases=5, ...)`."""
    return write_patient


@pytest.fixture
def nifti() -> Callable[..., None]:
    """A function that writes an array as ACDC writes its files: `nifti(path, values)`."""
    return save_nifti


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of shards: train patient001 (5 phases) and patient002 (4), val patient003, test patient004."""
    for number, phases in ((1, 5), (2, 4), (3, 5), (4, 5)):
        write_patient(tmp_path / "acdc" / f"patient{number:03d}", phases=phases, seed=number)
    source, folder = AcdcSource(tmp_path / "acdc"), tmp_path / "shards"
    folder.mkdir()
    split = {"train": ["patient001", "patient002"], "val": ["patient003"], "test": ["patient004"]}
    writer = ShardWriter(folder, shard_bytes=1)
    for name, patients in split.items():
        for patient in patients:
            writer.add(name, serialize(source.load(patient), "4d_mri"))
    write_json(folder / "manifest.json", {"schema_version": SCHEMA_VERSION, "split": split, "shards": writer.close()})
    return folder
