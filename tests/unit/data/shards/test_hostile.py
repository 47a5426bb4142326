"""A shard from a stranger executes nothing, opens nothing and is refused by name."""

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.loading.stream import CineStream
from data.shards import streamed
from data.shards.reader import ShardReader
from tests.shards import made_up, make_shards
from utils.files import read_json, write_json

MARK = "it_ran"
SHARD, CINE, JSON = "train-000000.tar", "patient001_z00.cine.npy", "patient001_z00.json"


class Bomb:
    """Leaves a mark in the working folder when it is unpickled."""

    def __reduce__(self):
        return open, (MARK, "w")


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One patient of two slices; afterwards nothing may have run, nor anything been written beside the shards."""
    monkeypatch.chdir(tmp_path)
    folder = make_shards(tmp_path / "shards", [made_up(1, 2, 5)])
    yield folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", SHARD]


def members(folder: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(folder / SHARD) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def replace(folder: Path, data: bytes) -> None:
    """Put other bytes in the shard's place; the manifest follows, as a hostile one would."""
    (folder / SHARD).write_bytes(data)
    manifest = read_json(folder / "manifest.json")
    manifest["shards"]["train"][0]["bytes"] = len(data)
    write_json(folder / "manifest.json", manifest)


def tar_of(entries: list[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_saying(header: str, version: int = 1, claimed: int | None = None) -> bytes:
    """A .npy of a forged header and no values."""
    length = (len(header) if claimed is None else claimed).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode()


def shaped(shape: object) -> str:
    return str({"descr": "<i2", "fortran_order": False, "shape": shape})


def refused(folder: Path, message: str, shard: str = SHARD) -> None:
    """By index and as a stream, naming the shard."""
    for read in (ShardReader, lambda *split: list(streamed.entries(*split))):
        with pytest.raises(ValueError, match=message) as caught:
            read(folder, "train")
        assert shard in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json", "/etc/evil.json", "a/../../evil.json", "patient001_z00.pickle", "patient001_z00.cine.pyd",
        "patient001_z00.cls", "patient001_z00.pth", "patient001_z00.json.gz", "patient001_z00.cine.npy.gz",
        "patient001_z00.npz", "__worker__.py", "..\\evil.json", "patient001_z00.cine.npy\n", "pipe:touch it_ran",
    ],
)  # fmt: skip
def test_a_member_that_the_schema_does_not_know_is_refused(shards: Path, name: str) -> None:
    replace(shards, tar_of([*members(shards), (name, pickle.dumps(Bomb()))]))
    refused(shards, "refused the member")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.array([Bomb()], dtype=object)), f"refused {CINE}: object"),
        (npy(np.zeros(3, dtype=[("a", "O")])), f"refused {CINE}: "),
        (pickle.dumps(Bomb()), f"{CINE} is not a .npy array"),
        (b"\x93NUMPY\x01\x00", f"{CINE} is not a .npy array"),
        (npy(np.ones((5, 4, 3)).T), "Fortran"),
        (npy(np.ones((5, 4, 3), complex)), "expected integers or floats"),
        (npy(np.ones((5, 4, 3), np.int16))[:-9], "does not match shape"),
        (npy_saying(shaped((5, 1 << 40, 1 << 40))), "does not match shape"),
        (npy_saying(shaped((5, 1 << 62, 4))), "does not match shape"),  # 0 bytes where sizes wrap around at 64 bits
        (npy_saying(shaped((5, -4, 3))), "expected integers or floats"),
        (npy_saying(shaped((5, 4, 3)) + " " * 60000), f"{CINE} is not a .npy array"),
        (npy_saying(shaped((5, 4, 3)), version=2, claimed=(1 << 32) - 1), f"{CINE} is not a .npy array"),
        (npy_saying("-" * 4000 + "1"), f"{CINE} is not a .npy array"),
        (npy_saying("(" * 4000), f"{CINE} is not a .npy array"),
        (npy_saying("__import__('os').system('touch it_ran')"), f"{CINE} is not a .npy array"),
    ],
)
def test_a_forged_array_is_refused(shards: Path, data: bytes, message: str) -> None:
    replace(shards, tar_of([(name, data if name == CINE else old) for name, old in members(shards)]))
    refused(shards, message)


def field(**changes: object) -> object:
    return lambda info: json.dumps({**info, **changes}).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"[" * 60000, "not valid JSON"),
        (lambda _: b"1" * 60000, "not valid JSON"),
        (lambda info: b" " * (1 << 16) + json.dumps(info).encode(), "expected at most 65536"),
        (lambda info: json.dumps(info).encode()[:-1] + b', "patient": "patient001"}', "a field occurs twice"),
        (lambda _: pickle.dumps(Bomb()), "not valid JSON"),
        (lambda _: gzip.compress(b"{}"), "not valid JSON"),
        (lambda _: b"\xff\xfe\x00", "not valid JSON"),
        (lambda _: b"{}", "with the fields"),
        (field(surprise=1), "with the fields"),
        (field(patient="../../evil"), "describes slice 0"),
        (field(slice=1), "describes slice 1"),
        (field(slices=1 << 40), "1 kinds|2 kinds|slices"),
        (field(phases=3), "expected .T, H, W. with T = phases"),
        (field(phases=True), "expected .T, H, W. with T = phases"),
        (field(ed=99), "ED or ES phase 99"),
        (field(window=[0, float("nan")]), "window"),
        (field(window=[0, 0]), "expected a window with low < high and a spacing"),
        (field(window=[0, 1e-300]), "expected a window with low < high and a spacing"),
        (field(window=[1e6, 1e6 + 0.01]), "expected a window with low < high and a spacing"),
        (field(spacing_mm=[1e-300, 1, 1]), "expected a window with low < high and a spacing"),
        (field(slope="2"), "has slope '2'"),
        (field(slope=0), "has slope 0"),
        (field(intercept=None), "intercept None"),
        (field(group=["NOR"]), "expected texts"),
        (field(center=["a", 1]), "center"),
        (field(spacing_mm=[1, 1, -1]), "expected a window with low < high and a spacing"),
        (field(height_cm="180"), "expected null or a number above 0"),
        (field(weight_kg=-1), "weight_kg -1, expected null or a number above 0"),
        (field(affine=[["a"] * 4] * 4), "affine .* expected 4 rows of 4 finite numbers"),
        (field(affine=[[1]]), "expected 4 rows of 4 finite numbers"),
        (field(affine=None), "expected 4 rows of 4 finite numbers"),
        (field(time_unit=[8]), r"of unit \[8\]"),
        (field(time_unit={}), r"of unit \{\}"),
        (field(modality=None), "modality None"),
        (field(source_hash=[1]), r"source_hash \[1\], expected texts"),
    ],
)
def test_a_forged_json_is_refused(shards: Path, change, message: str) -> None:
    entries = [(name, change(json.loads(old)) if name == JSON else old) for name, old in members(shards)]
    replace(shards, tar_of(entries))
    refused(shards, message, shard="")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.DIRTYPE, "link, folder"),
        (tarfile.FIFOTYPE, "device"), (tarfile.CHRTYPE, "device"),
    ],
)  # fmt: skip
def test_a_member_that_is_no_plain_file_is_refused(shards: Path, kind: bytes, message: str) -> None:
    link = tarfile.TarInfo("patient001_z07.json")
    link.type, link.linkname = kind, "/etc/passwd"
    replace(shards, tar_of([*members(shards), (link, b"")]))
    refused(shards, message)


def test_a_member_that_stands_twice_is_refused(shards: Path) -> None:
    replace(shards, tar_of([*members(shards), (JSON, b"{}")]))
    refused(shards, f"holds {JSON} twice")


def test_a_mask_that_does_not_fit_its_cine_is_refused(shards: Path) -> None:
    mask = "patient001_z00.mask_ed.npy"
    small = npy(np.ones((3, 3), np.uint8))
    replace(shards, tar_of([(name, small if name == mask else old) for name, old in members(shards)]))
    refused(shards, mask)


@pytest.mark.parametrize(
    ("keep", "message"),
    [(lambda name: name != CINE, "lacks cine.npy"), (lambda name: "_z01" not in name, "patient001 has 1 of 2 slices")],
)
def test_a_shard_that_lacks_something_is_refused(shards: Path, keep, message: str) -> None:
    replace(shards, tar_of([(name, data) for name, data in members(shards) if keep(name)]))
    refused(shards, message, shard="")


def test_a_stack_of_more_slices_than_memory_holds_is_refused(shards: Path) -> None:
    many = [(name, data.replace(b'"slices": 2', b'"slices": 9999999999')) for name, data in members(shards)]
    replace(shards, tar_of(many))
    refused(shards, "patient001 has 2 of 9999999999 slices", shard="")


def test_slices_that_tell_different_things_of_their_patient_are_refused(shards: Path) -> None:
    other = [(name, data.replace(b'"NOR"', b'"DCM"') if name == JSON else data) for name, data in members(shards)]
    replace(shards, tar_of(other))
    refused(shards, r"patient001 has 2 of 2 slices, with 2 different headers", shard="")


def test_a_gzipped_shard_is_refused(shards: Path) -> None:
    replace(shards, gzip.compress((shards / SHARD).read_bytes()))
    refused(shards, "not a (whole|complete) tar")


def test_a_pickle_in_place_of_a_shard_is_refused(shards: Path) -> None:
    replace(shards, pickle.dumps(Bomb()) + bytes(2000))
    refused(shards, "not a (whole|complete) tar")


def test_a_member_of_negative_size_is_refused_and_not_read_for_ever(shards: Path) -> None:
    data = bytearray(tar_of([("patient001_z00.json", b"")]))
    data[124:136] = b"\xff" * 10 + b"\xf6\x00"  # -2560, in the tar format's base 256
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    replace(shards, bytes(data))
    refused(shards, "refused 'patient001_z00.json'")


@pytest.mark.parametrize(
    "url",
    [
        "pipe:touch it_ran", "pipe:cat /etc/passwd", "simplecache::https://localhost/x", "tar://a::https://localhost/x",
        "file:///etc", "local:///etc", "memory://x", "ftp://localhost/x", "github://a:b@c/x", "python://x",
        "https://localhost/x?token=1", "https://name:password@localhost/x", "https://localhost/x#y",
    ],
)  # fmt: skip
def test_a_url_that_is_not_allowed_is_refused_and_never_opened(shards: Path, url: str) -> None:
    for read in (lambda: ShardReader(url, "train", cache_dir=str(shards)), lambda: CineStream(url, "train", "slice",
                 image_size=16, geometry="crop")):  # fmt: skip
        with pytest.raises(ValueError, match=r"refused dataset\.shards") as caught:
            read()
        assert "password" not in str(caught.value).replace("user, password", "")


@pytest.mark.parametrize("name", [7, None, ["patient001"], {"a": 1}])
def test_a_manifest_whose_names_are_no_text_is_refused(shards: Path, name: object) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["split"]["train"].append(name)
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json: a name in `split` is .*, expected text"):
        ShardReader(shards, "train")


@pytest.mark.parametrize("shard", [None, 7, "train-000000.tar", {"file": 7, "bytes": 1}, {"file": "train-000000.tar"}])
def test_a_manifest_whose_shards_are_no_files_is_refused(shards: Path, shard: object) -> None:
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"]["train"] = [shard]
    (shards / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json: refused the shard"):
        ShardReader(shards, "train")
