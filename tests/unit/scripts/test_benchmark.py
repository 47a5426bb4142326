"""The benchmark compares like with like, and writes down what it found."""

import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from data.loading.dataset import UNITS, CineDataset
from scripts import benchmark
from scripts.benchmarks import data
from tests.shards import made_up, make_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_shards(tmp_path / "shards", [made_up(1, 2, 4), made_up(2, 3, 4, ed=3, es=1)])


@pytest.mark.parametrize("unit", UNITS)
def test_equal_work_is_the_same_arrays(folder: Path, unit: str) -> None:
    reading = data.Reading(str(folder), "train", unit, 4, 16, "crop", 1)
    dataset = CineDataset(folder, "train", unit, 16, "crop", phases=4 if unit == "slice" else None)
    other = (batch for batch in data.by_webdataset(reading, 0, grid=True))
    batches = list(islice(other, len(dataset)))
    times = [np.rint(batch.phase[0].numpy() * 4).astype(int) for batch in batches]
    for index, (batch, places) in enumerate(zip(batches, times, strict=True)):
        expected = dataset[0, index].arrays
        order = [np.rint(expected["phase"] * 4).astype(int).tolist().index(time) for time in places]
        for name in ("image", "mask", "has_label"):
            assert np.array_equal(getattr(batch, name)[0].numpy(), expected[name][:, order])
        assert np.array_equal(batch.field[0].numpy(), expected["field"])


def test_the_table_is_written_with_each_side_unit_and_number_of_workers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "data.json"
    options = ["data", "--data", folder, "--units", "frame", "stack", "--workers", "0", "1", "--seconds", "0.01"]
    more = ["--rounds", "1", "--image_size", "16", "--batch", "2", "--output", output]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, options + more)])
    monkeypatch.setattr(data, "cpu_seconds", iter(range(1000)).__next__)
    benchmark.main()
    found = json.loads(output.read_text())
    assert {(r["unit"], r["workers"], r["side"]) for r in found["results"]} == {
        (unit, workers, side) for unit in ("frame", "stack") for workers in (0, 1) for side in data.SIDES
    }
    assert all(row["samples_per_s"] > 0 and row["mib_last"] > 0 for row in found["results"])
    assert found["data"] == "shards" and str(tmp_path) not in output.read_text()
    assert "webdataset+grid" in capsys.readouterr().out
