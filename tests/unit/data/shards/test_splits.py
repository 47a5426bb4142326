import json
from pathlib import Path

import pytest

from data.shards.splits import fold_patients, read_split, split_patients

GROUPS = {f"patient{i:03d}": "ABCDE"[i % 5] for i in range(100)}


def test_no_patient_is_in_two_parts_and_none_is_lost():
    parts = split_patients(GROUPS, 0.1, 0.2, seed=0)
    together = sorted(parts["train"] + parts["val"] + parts["test"])
    assert together == sorted(GROUPS)
    assert [len(parts[name]) for name in ("train", "val", "test")] == [70, 10, 20]


def test_every_group_gives_its_share():
    for part, count in zip(split_patients(GROUPS, 0.1, 0.2, seed=3).values(), (14, 2, 4), strict=True):
        assert all(abs(sum(GROUPS[p] == group for p in part) - count) <= 1 for group in "ABCDE")


def test_the_seed_alone_decides():
    assert split_patients(GROUPS, 0.1, 0.2, 5) == split_patients(dict(reversed(GROUPS.items())), 0.1, 0.2, 5)
    assert split_patients(GROUPS, 0.1, 0.2, 5) != split_patients(GROUPS, 0.1, 0.2, 6)


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize(("val", "test"), [(0.1, 0.2), (0.5, 0.5), (0.9, 0.9), (0.0, 0.0)])
def test_train_keeps_a_patient(count, val, test):
    groups = dict.fromkeys(sorted(GROUPS)[:count])
    parts = split_patients(groups, val, test, seed=0)
    assert parts["train"] and sum(map(len, parts.values())) == count


def test_a_test_fraction_of_one_takes_all():
    assert split_patients({"patient001": None}, 0.1, 1.0, seed=0) == {"train": [], "val": [], "test": ["patient001"]}


def test_a_named_test_set_is_kept():
    held_out = frozenset(sorted(GROUPS)[:30])
    parts = split_patients(GROUPS, 0.1, 0.2, 0, held_out)
    assert set(parts["test"]) == held_out
    assert len(parts["val"]) == 10


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (1.0, 0.0), (0.1, 1.1)])
def test_impossible_fractions_are_refused(val, test):
    with pytest.raises(ValueError, match="fraction"):
        split_patients(GROUPS, val, test, 0)


def test_every_patient_is_tested_in_exactly_one_fold():
    folds = [fold_patients(GROUPS, 5, k, 0.1, seed=0) for k in range(5)]
    assert sorted(p for parts in folds for p in parts["test"]) == sorted(GROUPS)
    for parts in folds:
        assert [len(parts[name]) for name in ("train", "val", "test")] == [70, 10, 20]
        assert sorted(p for part in parts.values() for p in part) == sorted(GROUPS)


@pytest.mark.parametrize("count", [7, 23, 52])
def test_every_group_gives_every_fold_its_share(count):
    groups = {patient: "AABCC"[i % 5] for i, patient in enumerate(sorted(GROUPS)[:count])}
    tests = [fold_patients(groups, 5, k, 0.1, seed=1)["test"] for k in range(5)]
    assert max(map(len, tests)) - min(map(len, tests)) <= 1
    for group in "ABC":
        counts = [sum(groups[p] == group for p in test) for test in tests]
        assert max(counts) - min(counts) <= 1


def test_folds_of_a_dataset_with_its_own_test_set_divide_the_others():
    held_out = frozenset(sorted(GROUPS)[:30])
    folds = [fold_patients(GROUPS, 5, k, 0.1, 0, held_out) for k in range(5)]
    assert all(set(parts["test"]) == held_out for parts in folds)
    assert sorted(p for parts in folds for p in parts["val"]) == sorted(set(GROUPS) - held_out)
    assert all(len(parts["train"]) == 56 for parts in folds)


@pytest.mark.parametrize(
    ("folds", "fold", "message"), [(1, 0, "folds"), (101, 0, "folds"), (5, -1, "fold"), (5, 5, "fold")]
)
def test_folds_that_are_not_there_are_refused(folds, fold, message):
    with pytest.raises(ValueError, match=f"^{message} is"):
        fold_patients(GROUPS, folds, fold, 0.1, 0)


def test_a_csv_and_a_json_say_the_same(tmp_path: Path):
    split = {"train": ["c", "a"], "val": [], "test": ["b"]}
    (tmp_path / "s.json").write_text(json.dumps(split))
    (tmp_path / "s.csv").write_text("\ufeffgroup,patient, split\nX,a, train\nX,b,test\nX,c,train\n", encoding="utf-8")
    for name in ("s.json", "s.csv"):
        assert read_split(tmp_path / name, "abc") == {"train": ["a", "c"], "val": [], "test": ["b"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train": ["a", "b", "c"], "test": ["b"]}', "more than once: b"),
        ('{"train": ["a", "a", "b", "c"]}', "more than once: a"),
        ('{"train": ["a", "b"], "test": ["d", "c"]}', "unknown patients: d"),
        ('{"train": ["a"]}', "does not list patients: b, c"),
        ('{"train": ["a", "b"], "dev": ["c"]}', "split 'dev'"),
        ('["a", "b", "c"]', "expected"),
        ('{"train": "abc"}', "expected"),
        ("{", "not valid JSON"),
    ],
)
def test_a_split_file_that_is_not_whole_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / "s.json", "abc")


@pytest.mark.parametrize("text", ["", "patient\na\n", "a,train\nb,test\nc,val\n"])
def test_a_table_without_its_columns_is_refused(tmp_path, text):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(ValueError, match=r"has no column '(patient|split)'"):
        read_split(tmp_path / "s.csv", "abc")


def test_a_split_file_may_name_patients_that_are_left_out(tmp_path):
    (tmp_path / "s.json").write_text('{"train": ["a", "b"], "test": ["c"]}')
    assert read_split(tmp_path / "s.json", "ac", left_out=["b"]) == {"train": ["a"], "val": [], "test": ["c"]}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_split_that_a_spreadsheet_marked_is_read(tmp_path, encoding):
    (tmp_path / "s.csv").write_bytes("patient,split\na,train\nb,test\n".encode(encoding))
    assert read_split(tmp_path / "s.csv", ["a", "b"]) == {"train": ["a"], "val": [], "test": ["b"]}
    (tmp_path / "s.json").write_bytes('{"train": ["a"], "test": ["b"]}'.encode(encoding))
    assert read_split(tmp_path / "s.json", ["a", "b"]) == {"train": ["a"], "val": [], "test": ["b"]}


def test_a_split_in_another_encoding_is_named(tmp_path):
    (tmp_path / "s.csv").write_bytes("patient,split\nMüller,train\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"s\.csv: not text in UTF-8"):
        read_split(tmp_path / "s.csv", ["Müller"])
