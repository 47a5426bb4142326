"""A stream gives the samples of the indexed loader, in an order of its own, and nothing reaches the disk."""

import io
import os
import pickle
import tarfile
import tempfile
import time
import weakref
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from data.loading.augment import AugmentConfig
from data.loading.dataset import UNITS, CineDataset
from data.loading.loader import collate, train_loader
from data.loading.stream import CineStream, make_loader
from data.shards import remote, streamed
from tests.server import serving
from tests.shards import made_up, make_shards
from utils.files import read_json, write_json

AUGMENT = AugmentConfig(True, rotate_degrees=20, scale=0.1, flip=True, noise=0.05, roll=True)
LENGTHS = {"frame": 2 * 5 + 3 * 4 + 6 + 2 * 5, "slice": 8, "stack": 4}
SHARD = "train-000001.tar"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, each in a shard of its own; of the last nobody knows ED and ES."""
    cases = [made_up(1, 2, 5), made_up(2, 3, 4), made_up(3, 1, 6), made_up(4, 2, 5, ed=None, es=None)]
    return make_shards(tmp_path_factory.mktemp("stream") / "shards", cases)


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """Two patients, each in a shard of its own, to be changed."""
    return make_shards(tmp_path / "served", [made_up(1, 2, 5), made_up(2, 3, 4)])


def options(unit: str, **changes: object) -> dict:
    phases = {"frame": None, "slice": 3, "stack": None}[unit]
    return {
        "split": "train",
        "unit": unit,
        "image_size": 16,
        "geometry": "crop",
        "phases": phases,
        "seed": 7,
        **changes,
    }


def streamed_keys(folder: Path, epoch: int = 0, **changes: object) -> list[str]:
    stream = CineStream(folder, **options("frame", **changes))
    return [dataset[epoch, index].key for dataset, index in stream.epoch(epoch)]


def equal(a, b) -> bool:
    pairs = zip(a, b, strict=True)
    return all(
        np.array_equal(x, y, equal_nan=x.is_floating_point()) if isinstance(x, torch.Tensor) else x == y
        for x, y in pairs
    )


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_a_streamed_epoch_holds_exactly_the_samples_of_the_indexed_loader(folder, unit, workers, augment):
    indexed = CineDataset(folder, **options(unit, augment=augment))
    stream = CineStream(folder, **options(unit, augment=augment))
    assert len(stream) == len(indexed) == LENGTHS[unit]
    expected = {(e, s.key): s for e in (0, 1, 2) for s in (indexed[e, index] for index in range(len(indexed)))}
    epochs = {sample.sample_seed: epoch for (epoch, _), sample in expected.items()}
    seen: Counter[int] = Counter()
    for batch in islice(make_loader(stream, 1, workers=workers), 2 * len(indexed)):
        seen[int(batch.sample_seed)] += 1
        assert equal(batch, collate([expected[epochs[int(batch.sample_seed)], batch.key[0]]]))
    firsts = [count for seed, count in seen.items() if epochs[seed] == 0]
    assert firsts == [1] * len(indexed) and max(seen.values()) == 1


@pytest.mark.parametrize("unit", ["slice", "stack"])
def test_key_frames_that_nobody_told_are_those_of_the_indexed_loader(folder, unit):
    indexed = CineDataset(folder, **options(unit, key_frames=True))
    stream = CineStream(folder, **options(unit, key_frames=True))
    expected = {sample.key: sample for sample in (indexed[0, index] for index in range(len(indexed)))}
    found = [dataset[0, index] for dataset, index in stream.epoch(0)]
    assert len(found) == len(expected)
    assert all(equal(collate([sample]), collate([expected[sample.key]])) for sample in found)


@pytest.mark.parametrize("unit", UNITS)
def test_two_ranks_with_two_workers_see_each_sample_of_an_epoch_once(folder, unit):
    indexed = CineDataset(folder, **options(unit))
    first = {indexed[0, index].sample_seed for index in range(len(indexed))}
    seen = [
        [int(seed) for batch in islice(make_loader(CineStream(folder, **options(unit)), 2, rank, 2, 2), len(indexed))
         for seed in batch.sample_seed if int(seed) in first]
        for rank in (0, 1)
    ]  # fmt: skip
    assert not set(seen[0]) & set(seen[1])
    assert sorted(seen[0] + seen[1]) == sorted(first)


def test_seed_and_epoch_decide_the_order(folder):
    assert streamed_keys(folder) == streamed_keys(folder)
    orders = [streamed_keys(folder), streamed_keys(folder, epoch=1), streamed_keys(folder, seed=8)]
    assert len({tuple(order) for order in orders}) == 3
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(orders[0]))}


def test_a_larger_shuffle_buffer_mixes_patients(folder):
    def runs(buffer: int) -> int:
        patients = [key[:10] for key in streamed_keys(folder, shuffle_buffer=buffer)]
        return sum(a != b for a, b in pairwise(patients))

    assert runs(1) == 3 < runs(10) < runs(1000)


def test_all_ranks_and_workers_draw_the_number_of_phases_of_the_indexed_loader(folder):
    drawn = options("slice", phases=2, max_phases=4)
    indexed = train_loader(CineDataset(folder, **drawn), 2, start_step=3, steps_per_update=2)
    expected = [batch.phase.shape[1] for batch in islice(indexed, 8)]
    assert len(set(expected)) > 1
    for rank, workers in ((0, 0), (1, 2)):
        loader = make_loader(CineStream(folder, **drawn), 2, rank, 2, workers, 3, 2)
        assert [batch.phase.shape[1] for batch in islice(loader, 8)] == expected


def test_a_resumed_run_begins_the_epoch_of_its_step_anew(folder):
    stream = CineStream(folder, **options("slice"))
    batches = islice(make_loader(stream, 2, start_step=6), 4)  # sample 12 of 8 an epoch
    keys = [key for batch in batches for key in batch.key]
    assert keys == [dataset[1, index].key for dataset, index in stream.epoch(1)]


def test_an_indexed_split_keeps_its_own_loader(folder):
    dataset = CineDataset(folder, **options("slice"))
    pairs = zip(islice(make_loader(dataset, 4), 3), islice(train_loader(dataset, 4), 3), strict=True)
    assert all(equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("ranks", "workers"), [(1, 5), (5, 0), (3, 2)])
def test_fewer_shards_than_loading_processes_are_refused(folder, ranks, workers):
    stream = CineStream(folder, **options("frame"))
    with pytest.raises(ValueError, match=r"4 shards for [56] loading processes .*lower dataset\.workers"):
        make_loader(stream, 30, 0, ranks, workers)


def test_a_stream_holds_no_more_slices_than_its_buffer(tmp_path, monkeypatch):
    cases = [made_up(number, 2, 4) for number in range(1, 31)]
    folder = make_shards(tmp_path / "shards", cases, shard_bytes=60_000)
    alive: weakref.WeakSet = weakref.WeakSet()
    make = streamed.Slices.__init__
    monkeypatch.setattr(streamed.Slices, "__init__", lambda self, *given: (make(self, *given), alive.add(self))[0])
    most = 0
    for _ in CineStream(folder, **options("slice", shuffle_buffer=5)).epoch(0):
        most = max(most, sum(len(slices.samples) for slices in alive))
    assert 5 <= most <= 5 + 2 * 3  # and the patient that is read, as a whole and slice by slice


def altered(folder: Path, change) -> None:
    """Change the members of a shard; the manifest follows, as a hostile one would."""
    with tarfile.open(folder / SHARD) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in change(members):
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (folder / SHARD).write_bytes(stream.getvalue())
    manifest = read_json(folder / "manifest.json")
    manifest["shards"]["train"][1]["bytes"] = len(stream.getvalue())
    write_json(folder / "manifest.json", manifest)


class Bomb:
    """Leaves a mark in the working folder when it is unpickled."""

    def __reduce__(self):
        return open, ("it_ran", "w")


def link() -> tarfile.TarInfo:
    info = tarfile.TarInfo("patient002_z09.json")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda members: [*members, ("patient002_z03.pickle", pickle.dumps(Bomb()))], "refused the member"),
        (lambda members: [*members, ("__worker__", b"")], "refused the member"),
        (lambda members: [*members, (link(), b"")], "link, folder or device"),
        (lambda members: [(name, pickle.dumps(Bomb()) if name.endswith("cine.npy") else data)
                          for name, data in members], "not a .npy"),
        (lambda members: [(name.replace("patient002", "patient009"), data.replace(b"patient002", b"patient009"))
                          for name, data in members], "disagree on patient009"),
        (lambda members: members[:-1], "lacks json"),
        (lambda members: [m for m in members if "_z01" not in m[0]], "patient002 has 2 of 3 slices"),
        (lambda members: [*members[4:8], *members[:4], *members[8:]], "patient002 has 3 of 3 slices"),
        (lambda members: [*members, *members[:4]], "twice"),
    ],
)  # fmt: skip
def test_a_member_that_does_not_belong_is_refused_naming_the_shard(own_folder, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    altered(own_folder, change)
    with pytest.raises(ValueError, match=message) as caught:
        streamed_keys(own_folder)
    assert SHARD in str(caught.value) and not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [0, 300, 512, 3000, 9000])
def test_a_shard_that_is_cut_is_one_error_that_names_it(own_folder, workers, size):
    (own_folder / SHARD).write_bytes((own_folder / SHARD).read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{SHARD}: has {size} bytes instead of"):
        list(islice(make_loader(CineStream(own_folder, **options("frame")), 1, workers=workers), 60))


@pytest.mark.parametrize("ill", ["error", "short", "endless", "stalled", "silent", "dripping"])
def test_a_server_that_fails_in_the_middle_is_one_error_that_names_the_shard_and_never_a_hang(
    own_folder, monkeypatch, ill
):
    with serving(own_folder) as server:
        streamed_keys(server.url)  # the first connection of a process loads libraries, which may take seconds
        monkeypatch.setattr(remote, "SILENCE_SECONDS", 2.0)
        monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_SECOND", 1e6)
        server.ill[SHARD], started = ill, time.monotonic()
        with pytest.raises((OSError, ValueError), match=SHARD):
            streamed_keys(server.url)
        assert time.monotonic() - started < 30


def test_other_bytes_than_the_manifest_says_are_an_error_that_names_the_shard(own_folder):
    data = (own_folder / SHARD).read_bytes()
    (own_folder / SHARD).write_bytes(data[:-1] + b"x")  # behind the last member, where no decoder looks
    with serving(own_folder) as server, pytest.raises(ValueError, match=rf"{SHARD}: has another content"):
        streamed_keys(server.url)


def test_a_training_that_takes_its_time_is_no_slow_server(own_folder, monkeypatch):
    with serving(own_folder) as server:
        streamed_keys(server.url)  # the first connection of a process loads libraries, which may take seconds
        monkeypatch.setattr(remote, "SILENCE_SECONDS", 2.0)
        monkeypatch.setattr(remote, "SLOWEST_BYTES_PER_SECOND", 1e6)
        samples = CineStream(server.url, **options("stack", shuffle_buffer=1)).epoch(0)
        keys = [dataset[0, index].key for dataset, index in samples if not time.sleep(2.5)]
    assert sorted(keys) == ["patient001", "patient002"]


def test_over_http_an_epoch_is_that_of_the_folder_and_nothing_is_written_to_the_disk(folder, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(folder))
    with serving(folder) as server:
        assert streamed_keys(server.url + "/") == streamed_keys(folder)
        assert sorted(server.asked) == ["manifest.json", *(f"train-{number:06d}.tar" for number in range(4))]
    assert not list(tmp_path.rglob("*")) and sorted(os.listdir(folder)) == before


def test_loading_processes_stream_over_http(folder):
    with serving(folder) as server:
        stream = CineStream(server.url, **options("frame"))
        keys = [key for batch in islice(make_loader(stream, 2, workers=2), len(stream) // 2) for key in batch.key]
    assert set(keys) <= set(streamed_keys(folder)) and len(set(keys)) > len(stream) // 2


def test_labels_are_looked_for_no_further_than_the_first(folder):
    with serving(folder) as server:
        assert next(streamed.entries(server.url, "train")).masks
        assert server.asked == ["manifest.json", "train-000000.tar"]


@pytest.mark.parametrize(("unit", "field"), [("frame", "counts"), ("slice", "samples")])
def test_a_manifest_that_does_not_say_how_many_samples_there_are_is_refused(own_folder, unit, field):
    manifest = read_json(own_folder / "manifest.json")
    del (manifest if field == "counts" else manifest["shards"]["train"][0])[field]
    write_json(own_folder / "manifest.json", manifest)
    with pytest.raises(ValueError, match=rf"manifest\.json: does not give the number of {unit}s of train"):
        CineStream(own_folder, **options(unit))


def test_an_option_that_cannot_be_used_is_refused_as_by_the_indexed_loader(folder):
    with pytest.raises(ValueError, match="frame, slice, stack"):
        CineStream(folder, **options("frame") | {"unit": "voxel"})
