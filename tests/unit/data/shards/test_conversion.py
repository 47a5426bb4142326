import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data.shards import conversion
from data.shards.conversion import Plan, convert, is_done
from data.shards.journal import Journal
from data.shards.reader import ShardReader, ShardWriter
from data.sources.acdc import AcdcSource
from tests.plans import PATIENTS, SPLIT, make_plan, write_patients
from utils.files import read_json, write_json


@pytest.fixture
def plan(tmp_path: Path, acdc_patient: Callable[..., Path]) -> Plan:
    return write_patients(tmp_path, acdc_patient)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Killed(BaseException):
    """Stands for a process that ends here: nothing of the project catches it."""


@pytest.fixture
def killed_at(monkeypatch):
    """A function that converts and dies in the n-th call of a function, before or after its work."""

    def run(plan: Plan, output: Path, owner, name: str, call: int, after: bool) -> None:
        work, calls = getattr(owner, name), []

        def die(*arguments, **named):
            calls.append(name)
            if len(calls) == call and not after:
                raise Killed
            result = work(*arguments, **named)
            if len(calls) == call:
                raise Killed
            return result

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, name, die)
            convert(plan, output)

    return run


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (Journal, "append", 1),
        (Journal, "append", 2),
        (Journal, "append", 5),
        (Journal, "append", 7),
        (ShardWriter, "add", 1),
        (ShardWriter, "add", 3),
        (ShardWriter, "close", 1),
        (conversion, "write_fingerprint", 1),
        (conversion, "write_json", 1),
        (conversion.os, "rename", 1),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_cut_off_anywhere_and_started_again_it_writes_the_bytes_of_one_run(
    plan, tmp_path, killed_at, owner, name, call, after
):
    convert(plan, tmp_path / "whole")
    killed_at(plan, tmp_path / "out", owner, name, call, after)
    if not is_done(plan, tmp_path / "out"):
        convert(plan, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["acdc", "out", "whole"]


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.5, 0.77, 0.99])
def test_a_journal_cut_off_in_the_middle_of_a_line_costs_no_more_than_that_line(plan, tmp_path, killed_at, fraction):
    convert(plan, tmp_path / "whole")
    killed_at(plan, tmp_path / "out", ShardWriter, "close", 1, after=True)
    journal = tmp_path / "out.partial" / "journal.jsonl"
    os.truncate(journal, int(journal.stat().st_size * fraction))
    convert(plan, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_it_goes_on_after_the_last_whole_patient(plan, tmp_path, killed_at, monkeypatch):
    killed_at(plan, tmp_path / "out", ShardWriter, "add", 3, after=True)
    loaded, load, logged = [], AcdcSource.load, []
    monkeypatch.setattr(AcdcSource, "load", lambda source, patient: loaded.append(patient) or load(source, patient))
    convert(plan, tmp_path / "out", log=logged.append)
    assert loaded == PATIENTS[2:]
    assert logged[0].endswith("resuming after 2 of 6 patients")


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_patient_whose_files_changed_meanwhile_is_converted_again(plan, tmp_path, killed_at, number):
    killed_at(plan, tmp_path / "out", Journal, "append", 7, after=False)
    (tmp_path / "acdc" / PATIENTS[number] / "Info.cfg").write_text("ED: 1\nES: 3\nWeight: 99\n")
    logged: list[str] = []
    convert(plan, tmp_path / "out", log=logged.append)
    assert logged[0].startswith(f"{PATIENTS[number]}: its files changed")
    convert(plan, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_shard_that_lost_a_patient_is_written_again(plan, tmp_path, killed_at):
    killed_at(plan, tmp_path / "out", Journal, "append", 7, after=False)
    os.truncate(tmp_path / "out.partial" / "train-000000.tar", 100)
    convert(plan, tmp_path / "out")
    assert len(ShardReader(tmp_path / "out", "train").patients()) == 3


def test_other_settings_or_patients_never_go_on_with_anothers_work(plan, tmp_path, killed_at):
    killed_at(plan, tmp_path / "out", ShardWriter, "add", 3, after=True)
    before = content(tmp_path / "out.partial")
    with pytest.raises(ValueError, match=r"out.partial: .*seed 0 instead of 1.*remove the folder to start again"):
        convert(make_plan(tmp_path, seed=1), tmp_path / "out")
    others = Plan(plan.source, {**SPLIT, PATIENTS[0]: "val"}, plan.settings, plan.shard_bytes)
    with pytest.raises(ValueError, match=r"out.partial: .*other patients"):
        convert(others, tmp_path / "out")
    assert content(tmp_path / "out.partial") == before


def test_two_conversions_into_one_folder_are_refused(plan, tmp_path):
    (tmp_path / "out.partial").mkdir()
    first = Journal(tmp_path / "out.partial" / "journal.jsonl")
    with pytest.raises(ValueError, match=r"out.partial: another process is writing"):
        convert(plan, tmp_path / "out")
    first.close()
    convert(plan, tmp_path / "out")


def test_a_partial_folder_of_someone_else_is_never_touched(plan, tmp_path):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"out.partial: exists and was not written by this script"):
        convert(plan, tmp_path / "out")
    assert content(tmp_path / "out.partial") == {"thesis.txt": b"mine"}


def test_a_folder_that_appears_meanwhile_is_never_overwritten(plan, tmp_path, monkeypatch):
    def appear(*_):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("mine")

    monkeypatch.setattr(conversion, "write_fingerprint", appear)
    with pytest.raises(ValueError, match="appeared during the conversion"):
        convert(plan, tmp_path / "out")
    assert content(tmp_path / "out") == {"thesis.txt": b"mine"}


def test_the_manifest_says_what_was_written_and_who_was_not(plan, tmp_path):
    manifest = convert(plan, tmp_path / "out")
    assert manifest["split"] == {
        "train": [PATIENTS[0], PATIENTS[2], PATIENTS[5]],
        "val": PATIENTS[4:5],
        "test": PATIENTS[1:2],
    }
    assert manifest["counts"]["train"] == {"patients": 3, "slices": 6, "frames": 24}
    assert [case["patient"] for case in manifest["skipped"]] == [PATIENTS[3]]
    assert set(manifest["skipped"][0]) == {"patient", "rule", "reason"}
    assert len(manifest["shards"]["train"]) == 2
    assert list(manifest["source"]["patients"]) == PATIENTS


def test_the_fingerprint_is_made_of_every_converted_patient(plan, tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(
        "data.shards.outcomes.case_record", lambda case, placement: {"patient": case.patient, "spread": float("nan")}
    )
    killed_at(plan, tmp_path / "out", ShardWriter, "add", 3, after=True)
    given = []
    monkeypatch.setattr(conversion, "write_fingerprint", lambda *arguments: given.append(arguments))
    convert(plan, tmp_path / "out")
    ((records, folder, name),) = given
    assert records == [{"patient": patient, "spread": None} for patient in PATIENTS if patient != PATIENTS[3]]
    assert folder.name == "out.partial" and name == "acdc"


@pytest.mark.parametrize("change", [{"source": []}, {"source": None}, {"settings": "all"}, {"settings": 3}])
def test_a_manifest_of_another_content_is_never_continued(plan, tmp_path, change):
    convert(plan, tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    write_json(manifest, {**read_json(manifest), **change})
    with pytest.raises(ValueError, match=r"manifest.json: has no source and settings of this script"):
        is_done(plan, tmp_path / "out")
