import pytest

from data.splits import split_patients

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
