import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from data.shards.reader import ShardReader, ShardWriter
from data.shards.samples import serialize
from data.sources.acdc import AcdcSource
from utils.files import read_json, write_json


def update_manifest(folder: Path, change) -> None:
    manifest = read_json(folder / "manifest.json")
    change(manifest)
    write_json(folder / "manifest.json", manifest)


def test_a_case_comes_back_as_it_was_written(shards):
    written = AcdcSource(shards.parent / "acdc").load("patient001")
    read = ShardReader(shards, "train").read_case("patient001")
    assert np.array_equal(read.cine, written.cine) and read.cine.dtype == written.cine.dtype
    assert all(np.array_equal(read.masks[phase], written.masks[phase]) for phase in (1, 3))
    assert np.array_equal(read.affine, written.affine)
    for name in ("patient", "spacing_mm", "ed", "es", "group", "height_cm", "weight_kg", "slope", "source_hash"):
        assert getattr(read, name) == getattr(written, name)


def test_samples_stand_in_stack_order_with_their_keys(shards):
    reader = ShardReader(shards, "train")
    assert [s.key for s in reader.samples] == [f"patient00{p}_z0{z}" for p in (1, 2) for z in (0, 1)]
    assert reader.patients() == {"patient001": [0, 1], "patient002": [2, 3]}
    assert [s.phases for s in reader.samples] == [5, 5, 4, 4]


def test_phases_are_read_alone_and_equal_their_places_in_the_slice(shards, monkeypatch):
    reader = ShardReader(shards, "train")
    whole = reader.read(1)
    sizes = []
    fill = reader._fill
    monkeypatch.setattr(
        reader, "_fill", lambda shard, place, *out: sizes.append(place.size) or fill(shard, place, *out)
    )
    for times in ([0], [3], [4, 1, 1]):
        part = reader.read(1, times)
        assert np.array_equal(part.cine, whole.cine[times])
        assert part.masks.keys() == whole.masks.keys() & set(times)
    assert max(sizes) == 20 * 24 * 2 and len(sizes) == 1 + 2 + 4


def test_a_phase_that_is_not_there_is_refused(shards):
    with pytest.raises(IndexError, match="5 phases"):
        ShardReader(shards, "train").read(0, [0, 5])


def test_a_reader_works_on_after_pickling(shards):
    reader = ShardReader(shards, "train")
    first = reader.read(0).cine
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).read(0).cine, first)


def test_webdataset_reads_the_shards(shards):
    samples = list(webdataset.WebDataset(str(shards / "train-000000.tar"), shardshuffle=False))
    assert [s["__key__"] for s in samples] == ["patient001_z00", "patient001_z01"]
    assert np.load(io.BytesIO(samples[0]["cine.npy"]), allow_pickle=False).shape == (5, 20, 24)


def test_equal_cases_give_equal_bytes(shards):
    source = AcdcSource(shards.parent / "acdc")
    assert serialize(source.load("patient001"), "4d_mri") == serialize(source.load("patient001"), "4d_mri")


def test_an_empty_split_has_no_samples(shards):
    update_manifest(shards, lambda m: (m["shards"].update(val=[]), m["split"].update(val=[])))
    assert ShardReader(shards, "val").samples == []


def test_a_missing_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"manifest.json.*convert_acdc_to_wds"):
        ShardReader(tmp_path, "train")


def test_an_unknown_split_lists_the_known_ones(shards):
    with pytest.raises(ValueError, match="train, val, test"):
        ShardReader(shards, "dev")


def test_a_missing_shard_is_named(shards):
    (shards / "train-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-000001.tar.*missing"):
        ShardReader(shards, "train")


@pytest.mark.parametrize("size", [100, 3000, 9000])
def test_a_truncated_shard_is_named(shards, size):
    path = shards / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"train-000000.tar.*truncated"):
        ShardReader(shards, "train")


def test_a_shard_that_is_no_tar_is_named(shards):
    path = shards / "train-000000.tar"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(ValueError, match=r"train-000000.tar.*not a complete tar"):
        ShardReader(shards, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema_version=99), "schema_version is 99"),
        (lambda m: m["split"]["test"].append("patient001"), "patient001 is in both train and test"),
        (lambda m: m["shards"]["train"][0].update(file="../train-000000.tar"), "refused the shard"),
        (lambda m: m["shards"]["train"][0].update(file="pipe:cat /etc/passwd"), "refused the shard 'pipe:"),
        (lambda m: m["shards"]["train"][0].update(file="test-000000.tar"), "refused the shard 'test-"),
        (lambda m: m.pop("split"), "`split`"),
        (
            lambda m: m["split"]["train"].append("patient009"),
            "train patients of shards and manifest differ .patient009",
        ),
    ],
)
def test_a_damaged_manifest_is_refused(shards, change, message):
    update_manifest(shards, change)
    with pytest.raises(ValueError, match=message):
        ShardReader(shards, "train")


def test_shards_have_the_bytes_of_a_plain_tar_without_owner_time_or_path(shards):
    source, expected = AcdcSource(shards.parent / "acdc"), io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in serialize(source.load("patient001"), "4d_mri"):
            header = tarfile.TarInfo(name)  # time 0, owner 0 without a name
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    assert (shards / "train-000000.tar").read_bytes() == expected.getvalue()


def test_a_shard_is_the_same_whether_its_cases_come_from_one_writer_or_from_several(shards, tmp_path):
    source = AcdcSource(shards.parent / "acdc")
    cases = [serialize(source.load(patient), "4d_mri") for patient in ("patient001", "patient002", "patient003")]
    for name in ("one", "several"):
        (tmp_path / name).mkdir()
    one = ShardWriter(tmp_path / "one", 1 << 30)
    for case in cases:
        one.add("train", case)
    several = None
    for case in cases:
        several = ShardWriter(tmp_path / "several", 1 << 30, several)
        several.add("train", case)
        several = several.shards
    assert one.close() == ShardWriter(tmp_path / "several", 1 << 30, several).close()
    assert (tmp_path / "one" / "train-000000.tar").stat().st_size % tarfile.RECORDSIZE == 0
