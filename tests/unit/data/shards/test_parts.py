"""Parts of a conversion, merged, have the bytes of one conversion; what is not whole is named and refused."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data.shards import conversion
from data.shards.conversion import Plan, convert, is_done
from data.shards.journal import Journal
from data.shards.parts import Part, convert_part, merge_parts, parse_part, remove_parts
from data.shards.reader import ShardWriter
from tests.plans import make_plan, write_patients


@pytest.fixture
def plan(tmp_path: Path, acdc_patient: Callable[..., Path]) -> Plan:
    return write_patients(tmp_path, acdc_patient)


def convert_parts(plan: Plan, output: Path, count: int) -> None:
    for number in range(count, 0, -1):
        convert_part(plan, output, Part(number, count))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(owner: object, name: str, call: int) -> pytest.MonkeyPatch:
    """Let the n-th call of a function stop the process after its work."""
    work, calls, patch = getattr(owner, name), [], pytest.MonkeyPatch()

    def stop(*arguments: object) -> object:
        calls.append(name)
        result = work(*arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    patch.setattr(owner, name, stop)
    return patch


@pytest.mark.parametrize("count", [2, 9])
def test_merged_parts_have_the_bytes_of_one_conversion(plan: Plan, tmp_path: Path, count: int) -> None:
    manifest = convert(plan, tmp_path / "whole")
    convert_parts(plan, tmp_path / "out", count)
    assert merge_parts(plan, tmp_path / "out") == manifest
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert len(list((tmp_path / "out.parts").iterdir())) == count
    remove_parts(tmp_path / "out")
    assert is_done(plan, tmp_path / "out") and not (tmp_path / "out.parts").exists()


def test_strict_refuses_to_merge_parts_or_to_keep_a_conversion_without_a_patient(plan: Plan, tmp_path: Path) -> None:
    convert_parts(plan, tmp_path / "out", 2)
    with pytest.raises(ValueError, match=r"patient004: patient004_4d\.nii\.gz is"):
        merge_parts(plan, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()
    merge_parts(plan, tmp_path / "out")
    with pytest.raises(ValueError, match=r"complete without 1 of 6 patients.* the first is patient004: "):
        is_done(plan, tmp_path / "out", strict=True)
    assert is_done(plan, tmp_path / "out")


def test_a_part_that_was_cut_off_is_not_merged_and_continues(plan: Plan, tmp_path: Path) -> None:
    convert(plan, tmp_path / "whole")
    patch = cut(ShardWriter, "add", 2)
    with pytest.raises(KeyboardInterrupt):
        convert_parts(plan, tmp_path / "out", 1)
    patch.undo()
    with pytest.raises(ValueError, match=r"1-of-1: is not complete \(1 of 6 patients\); repeat --part 1/1"):
        merge_parts(plan, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()
    logged: list[str] = []
    convert_part(plan, tmp_path / "out", Part(1, 1), log=logged.append)
    assert logged[0].endswith("resuming after 1 of 6 patients")
    merge_parts(plan, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(("owner", "name", "call"), [(ShardWriter, "add", 3), (conversion, "write_json", 1),
                                                     (conversion.os, "rename", 1)])  # fmt: skip
def test_a_merge_that_was_cut_off_keeps_the_parts_and_can_be_repeated(
    plan: Plan, tmp_path: Path, owner: object, name: str, call: int
) -> None:
    convert(plan, tmp_path / "whole")
    convert_parts(plan, tmp_path / "out", 2)
    before = content(tmp_path / "out.parts")
    patch = cut(owner, name, call)
    with pytest.raises(KeyboardInterrupt):
        merge_parts(plan, tmp_path / "out")
    patch.undo()
    assert content(tmp_path / "out.parts") == before
    if not is_done(plan, tmp_path / "out"):
        merge_parts(plan, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda parts: shutil.rmtree(parts), "out.parts: holds no parts; run the command with --part 1/N to N/N first"),
        (lambda parts: shutil.rmtree(parts / "2-of-3"), "1 of 3 parts are missing; run --part for 2/3"),
        (lambda parts: (parts / "2-of-4").mkdir(), r"several numbers of parts \(\*-of-3 and \*-of-4\)"),
        (lambda parts: os.truncate(parts / "3-of-3" / "journal.jsonl", 0), r"3-of-3: is not complete \(0 of 2"),
        (lambda parts: (parts / "1-of-3" / "train-000000.tar").unlink(), r"damaged or missing \(patient001\); remove"),
        (lambda parts: os.truncate(parts / "3-of-3" / "train-000000.tar", 9000), r"damaged .*\(patient003\).*part 3/3"),
        (lambda parts: flip(parts / "2-of-3" / "val-000000.tar"), r"val-000000.tar: is damaged .*\(patient005\)"),
        (
            lambda parts: (parts.parent / "acdc" / "patient006" / "Info.cfg").write_text("ED: 1\nES: 3\n"),
            "patient006: its files changed after the conversion; repeat --part 3/3",
        ),
    ],
)
def test_parts_that_are_not_whole_are_named_and_kept(
    plan: Plan, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    convert_parts(plan, tmp_path / "out", 3)
    damage(tmp_path / "out.parts")
    before = content(tmp_path / "out.parts")
    with pytest.raises((ValueError, OSError), match=message):
        merge_parts(plan, tmp_path / "out")
    assert content(tmp_path / "out.parts") == before and not (tmp_path / "out").exists()


def test_parts_of_other_settings_are_neither_continued_nor_merged(plan: Plan, tmp_path: Path) -> None:
    convert_parts(plan, tmp_path / "out", 2)
    with pytest.raises(ValueError, match=r"1-of-2: was made with other settings \(seed 0 instead of 1\); repeat"):
        merge_parts(make_plan(tmp_path, seed=1), tmp_path / "out")
    with pytest.raises(ValueError, match=r"2-of-2: was made with other settings \(seed 0 instead of 1\)"):
        convert_part(make_plan(tmp_path, seed=1), tmp_path / "out", Part(2, 2))


def test_a_part_is_converted_by_one_process_at_a_time(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "out.parts" / "1-of-2").mkdir(parents=True)
    first = Journal(tmp_path / "out.parts" / "1-of-2" / "journal.jsonl")
    with pytest.raises(ValueError, match=r"1-of-2: another process is writing"):
        convert_part(plan, tmp_path / "out", Part(1, 2))
    first.close()


def test_files_of_someone_else_among_the_parts_are_kept(plan: Plan, tmp_path: Path) -> None:
    convert_parts(plan, tmp_path / "out", 1)
    (tmp_path / "out.parts" / "thesis.txt").write_text("mine")
    remove_parts(tmp_path / "out")
    assert content(tmp_path / "out.parts") == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", "1/2/3"])
def test_a_part_that_does_not_exist_is_refused(text: str) -> None:
    assert parse_part("3/16") == Part(3, 16)
    with pytest.raises(ValueError, match=f"--part is '{text}', expected K/N with K from 1 to N, such as 3/16"):
        parse_part(text)
