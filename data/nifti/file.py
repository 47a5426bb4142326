"""Header and stored voxels of one NIfTI file, and the type of a file that is not NIfTI.

The type follows from the bytes of a file, never from its name: a plain file may be named .nii.gz, and a gzip file .nii.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

DAMAGE = (
    gzip.BadGzipFile, EOFError, ValueError, KeyError, zlib.error, MemoryError, OverflowError,
    nib.spatialimages.HeaderDataError,
)  # fmt: skip
CHUNK = 1 << 18  # bytes
GZIP = b"\x1f\x8b"
HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
QUATERNION_TOLERANCE = 1e-3  # by which the square of its vector part may pass 1: writers round it
FOREIGN = {  # first bytes of a file: its type and what to do
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull` in its repository",
    b"/annex/objects": "a git-annex pointer, not the file itself; run `git annex get` in its repository",
    b"<": "a web page, not the file itself; download it again, after a login if needed",
    GZIP: "a gzip file inside another one; unpack it once",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"BZh": "a bzip2 file; unpack it",
    b"\xfd7zXZ": "an xz file; unpack it",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it",
    b"NRRD": "an NRRD file; convert it to NIfTI",
    b"ObjectType": "a MetaImage file; convert it to NIfTI",
    b"\x89HDF": "an HDF5 file; convert it to NIfTI",
}


class NotNifti(ValueError):  # noqa: N818 - names the problem
    """The file is not NIfTI; the text gives its type and what to do."""


def read_file(path: Path) -> tuple[Any, np.ndarray]:
    """Read a whole file, so that gzip also compares its checksum.

    Returns:
        The header, of which only the geometry is checked, and the stored voxels in one copy.
    Raises:
        NotNifti: when it is another type of file.
        OSError: when it cannot be opened or read.
        One of DAMAGE: when it is truncated or damaged.
    """
    with path.open("rb") as stream:
        is_gzip = stream.read(len(GZIP)) == GZIP
    with gzip.open(path) if is_gzip else path.open("rb") as stream:
        header = _header(stream)
        return header, _voxels(stream, header)


def _header(stream: io.BufferedIOBase) -> Any:
    start = stream.read(max(HEADERS))
    if not start:
        raise ValueError("the file is empty")
    sizes = {order: int.from_bytes(start[:4], name) for order, name in (("<", "little"), (">", "big"))}  # type: ignore[arg-type]
    order = next((order for order, size in sizes.items() if size in HEADERS), None)
    if order is None:
        raise NotNifti(_what(start))
    size = sizes[order]
    if len(start) < size:
        raise ValueError(f"the file ends after {len(start)} of {size} bytes of the header")
    header: Any = HEADERS[size](start[:size], endianness=order, check=False)
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise NotNifti("an Analyze file or one half of a .hdr/.img pair; convert it to a single NIfTI file")
    pixdim = header["pixdim"]
    pixdim[0] = -1 if pixdim[0] < 0 else 1  # 0 stands for 1
    pixdim[1:4] = np.abs(pixdim[1:4])
    header.quaternion_threshold = -QUATERNION_TOLERANCE
    return header


def _what(start: bytes) -> str:
    if start[128:132] == b"DICM":
        return "a DICOM file; convert it to NIfTI, for example with dcm2niix"
    words = next((words for begin, words in FOREIGN.items() if start.lstrip().startswith(begin)), None)
    return words or f"not a NIfTI file, it begins with {start[:8]!r}; check its origin"


def _voxels(stream: io.BufferedIOBase, header: Any) -> np.ndarray:
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    if offset < header.sizeof_hdr:
        raise ValueError(f"the voxels begin at byte {offset}, inside the header")
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size, np.uint8)
    filled = 0
    stream.seek(offset)
    while piece := stream.read(CHUNK):
        used = piece[: size - filled]
        buffer[filled : filled + len(used)] = np.frombuffer(used, np.uint8)
        filled += len(used)
    if filled < size:
        raise ValueError(f"the file ends after {filled} of {size} bytes of voxels")
    return buffer.view(dtype).reshape(shape, order="F")
