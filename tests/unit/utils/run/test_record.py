"""run.json: software and code of each start of a run."""

from pathlib import Path

import pytest

from utils.files import read_json
from utils.run.record import record_start


def test_each_start_is_recorded_and_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    first = record_start(tmp_path, 0, "cpu", 1)
    again = record_start(tmp_path, 20, "cuda", 2)
    assert again == read_json(tmp_path / "run.json") and again["run_id"] == first["run_id"]
    assert [(start["step"], start["device"], start["ranks"]) for start in again["starts"]] == [
        (0, "cpu", 1), (20, "cuda", 2)
    ]  # fmt: skip
    assert {"python", "torch", "accelerate"} <= again["starts"][0]["versions"].keys()
    assert record_start(tmp_path, 0, "cpu", 1)["run_id"] != first["run_id"]


def test_a_record_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(ValueError, match=r"run\.json: expected the id and the starts of a run"):
        record_start(tmp_path, 5, "cpu", 1)
