"""Shards behind a URL, from a plain server on this machine."""

import multiprocessing
import shutil
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data.loading.dataset import CineDataset
from data.loading.loader import train_loader
from data.shards import remote
from data.shards.reader import ShardReader
from tests.server import serving
from tests.shards import made_up, make_shards
from utils.files import read_json, write_json

SHARD = "train-000001.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two training patients, each in a shard of its own."""
    return make_shards(tmp_path / "served", [made_up(1, 2, 5), made_up(2, 3, 4)])


@pytest.fixture
def server(folder: Path) -> Iterator[ThreadingHTTPServer]:
    with serving(folder) as running:
        yield running


def copies(cache: Path) -> list[str]:
    """What stands in the cache, locks and folders left out."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.name != ".lock")


def keys_of(url: str, cache: str) -> list[str]:
    return [entry.key for entry in ShardReader(url, "train", cache).samples]


def test_shards_behind_a_url_read_as_local_ones(folder, server, tmp_path):
    kinds = {"split": "train", "unit": "slice", "image_size": 16, "geometry": "crop", "phases": 3}
    here = CineDataset(folder, **kinds)
    there = CineDataset(server.url, **kinds, cache_dir=str(tmp_path / "cache"))
    for workers in (0, 2):
        pairs = zip(islice(train_loader(here, 4), 3), islice(train_loader(there, 4, workers=workers), 3), strict=True)
        assert all(a.key == b.key and np.array_equal(a.image, b.image) for a, b in pairs)


def test_a_file_is_fetched_once_and_then_read_without_the_server(folder, server, tmp_path):
    first = keys_of(server.url, str(tmp_path))
    assert sorted(server.asked) == ["manifest.json", "train-000000.tar", SHARD]
    shutil.rmtree(folder)
    assert keys_of(server.url + "/", str(tmp_path)) == first
    assert len(server.asked) == 3


def test_only_the_shards_of_the_split_asked_for_are_fetched(server, tmp_path):
    assert ShardReader(server.url, "val", str(tmp_path)).samples == []
    assert server.asked == ["manifest.json"]


def test_processes_that_start_together_fetch_once(server, tmp_path):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        found = pool.starmap(keys_of, [(server.url, str(tmp_path))] * 3)
    assert found[0] == found[1] == found[2] and len(found[0]) == 5
    assert sorted(server.asked) == ["manifest.json", "train-000000.tar", SHARD]


def test_the_default_cache_is_the_users(server, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    reader = ShardReader(server.url, "train")
    assert reader.folder.parent == tmp_path / "users" / "titok_mri"


def test_two_urls_never_share_a_copy(tmp_path, server, folder):
    shutil.copytree(folder, folder / "a" / "wds")
    shutil.copytree(folder, folder / "b" / "wds", ignore=shutil.ignore_patterns("a"))
    folders = {ShardReader(f"{server.url}/{part}/wds", "train", str(tmp_path)).folder for part in "ab"}
    assert len(folders) == 2 and all(path.name.startswith("wds-") for path in folders)


@pytest.mark.parametrize("ill", ["error", "short", "endless", "stalled", "silent", "dripping"])
def test_a_shard_that_does_not_arrive_whole_is_an_error_that_names_it_and_never_a_hang(
    server, tmp_path, monkeypatch, ill
):
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_SECOND", 1e6)
    server.ill[SHARD] = ill
    started = time.monotonic()
    with pytest.raises((OSError, ValueError), match=SHARD):
        keys_of(server.url, str(tmp_path / "cache"))
    assert time.monotonic() - started < 10
    assert copies(tmp_path / "cache") == ["manifest.json", "train-000000.tar"]
    server.ill.clear()
    assert len(keys_of(server.url, str(tmp_path / "cache"))) == 5  # started again, it goes on with what is missing
    assert server.asked.count("train-000000.tar") == 1


def test_a_missing_shard_is_named(folder, server, tmp_path):
    (folder / SHARD).unlink()
    with pytest.raises(OSError, match=f"{SHARD}: could not be downloaded .FileNotFoundError"):
        keys_of(server.url, str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1] + b"x", lambda data: data + b"x", lambda data: data[:-512], lambda data: b""]
)
def test_a_shard_of_other_bytes_than_the_manifest_says_is_named(folder, server, tmp_path, change):
    (folder / SHARD).write_bytes(change((folder / SHARD).read_bytes()))
    with pytest.raises(ValueError, match=SHARD):
        keys_of(server.url, str(tmp_path / "cache"))
    assert copies(tmp_path / "cache") == ["manifest.json", "train-000000.tar"]


def test_a_manifest_that_is_damaged_is_named_and_not_kept(folder, server, tmp_path):
    good = read_json(folder / "manifest.json")
    for bad in ("<html>log in</html>", "{}"):
        (folder / "manifest.json").write_text(bad)
        with pytest.raises(ValueError, match=server.url):
            keys_of(server.url, str(tmp_path / "cache"))
    write_json(folder / "manifest.json", good)
    assert len(keys_of(server.url, str(tmp_path / "cache"))) == 5


def test_a_manifest_without_checksums_is_not_trusted_with_a_download(folder, server, tmp_path):
    manifest = read_json(folder / "manifest.json")
    for shard in manifest["shards"]["train"]:
        del shard["blake2b"]
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match=r"train-000000\.tar"):
        keys_of(server.url, str(tmp_path / "cache"))
    assert len(ShardReader(folder, "train").samples) == 5  # local files are not hashed at each start


def test_a_copy_that_was_cut_short_is_fetched_again_and_what_a_killed_process_left_is_removed(server, tmp_path):
    folder = ShardReader(server.url, "train", str(tmp_path)).folder
    (folder / SHARD).write_bytes(b"x")
    (folder / f".0123abcd.{SHARD}").write_bytes(b"x")
    assert len(keys_of(server.url, str(tmp_path))) == 5
    assert copies(tmp_path / folder.name) == ["manifest.json", "train-000000.tar", SHARD]


def test_a_server_that_is_not_there_is_named(server, tmp_path):
    port = server.server_address[1]
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match=rf"127\.0\.0\.1:{port}/manifest\.json: could not be downloaded"):
        keys_of(f"http://127.0.0.1:{port}", str(tmp_path))


def test_a_protocol_whose_library_is_missing_says_which_to_install(tmp_path, monkeypatch):
    def lacking(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", lacking)
    with pytest.raises(OSError, match=r"s3://bucket/wds/manifest\.json: could not be downloaded .*Install s3fs"):
        keys_of("s3://bucket/wds", str(tmp_path))
