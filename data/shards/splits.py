"""Which patient belongs to train, val or test: by patient, spread evenly over the groups, seeded; or as a file says."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from data.shards.manifest import SPLITS
from utils.files import read_json
from utils.seeding import stable_seed
from utils.text import read_text


def split_patients(
    groups: Mapping[str, str | None],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    held_out: frozenset[str] = frozenset(),
) -> dict[str, list[str]]:
    """Divide patients among train, val and test.

    Sizes are the fractions of all patients, rounded; train keeps at least one patient unless test takes all. Inside
    each part the groups stand as they do in the whole, to one patient.

    Args:
        groups: patient -> diagnosis, None where unknown.
        val_fraction: part of all patients for validation, in [0, 1).
        test_fraction: part of all patients for the test, in [0, 1]; not used where `held_out` names them.
        seed: draws who goes where; a patient's draw does not depend on the others.
        held_out: the test patients, where the dataset names its own.
    Returns:
        {"train": [...], "val": [...], "test": [...]}, each sorted.
    Raises:
        ValueError: for a fraction outside its range.
    """
    if not (0 <= val_fraction < 1 and 0 <= test_fraction <= 1):
        raise ValueError(
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}, expected values in [0, 1) and [0, 1]"
        )
    drawn = _drawn(groups, seed)
    if held_out:
        test = [patient for patient in drawn if patient in held_out]
    else:
        spare = 0 if test_fraction == 1 else 1
        test = _spread(drawn, min(_rounded(len(drawn) * test_fraction), len(drawn) - spare))
    return _parts(drawn, test, _rounded(len(drawn) * val_fraction))


def fold_patients(
    groups: Mapping[str, str | None],
    folds: int,
    fold: int,
    val_fraction: float,
    seed: int,
    held_out: frozenset[str] = frozenset(),
) -> dict[str, list[str]]:
    """One fold of a cross-validation.

    The patients are dealt to `folds` parts of equal size, to one patient, each group by itself. Fold k tests on part k,
    so that every patient is tested in exactly one fold, and takes val from the rest as `split_patients` does.

    Args:
        groups: patient -> diagnosis, None where unknown.
        folds: how many, 2 or more.
        fold: which one, from 0.
        val_fraction: part of all patients for validation, in [0, 1).
        seed: draws who goes where.
        held_out: the test patients of every fold, where the dataset names its own; part k of the others is val then.
    Returns:
        {"train": [...], "val": [...], "test": [...]}, each sorted.
    Raises:
        ValueError: for a fold that is not there, fewer patients than folds, or a fraction outside its range.
    """
    drawn = _drawn(groups, seed)
    divided = [patient for patient in drawn if patient not in held_out]
    if not 2 <= folds <= len(divided):
        raise ValueError(f"folds is {folds}, expected 2 to {len(divided)}, the number of patients to divide")
    if not 0 <= fold < folds:
        raise ValueError(f"fold is {fold}, expected 0 to {folds - 1}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction is {val_fraction}, expected a value in [0, 1)")
    part = divided[fold::folds]
    if held_out:
        train = [patient for patient in divided if patient not in set(part)]
        return {"train": sorted(train), "val": sorted(part), "test": sorted(held_out)}
    return _parts(drawn, part, _rounded(len(drawn) * val_fraction))


def read_split(path: Path, patients: Collection[str], left_out: Collection[str] = ()) -> dict[str, list[str]]:
    """Read who belongs where from a file.

    Args:
        path: JSON {"train": [...], "val": [...], "test": [...]}, or CSV with the columns patient and split.
        patients: who must be in it, each once.
        left_out: who may be in it without being used.
    Returns:
        {"train": [...], "val": [...], "test": [...]}, each sorted.
    Raises:
        FileNotFoundError: when it does not exist.
        ValueError: naming the patients that it does not know, lists twice or leaves out, or what else is wrong with it.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    listed = Counter(patient for patient, _ in rows)
    if other := sorted({split for _, split in rows} - set(SPLITS)):
        raise ValueError(f"{path}: has the split {other[0]!r}, expected train, val or test; correct it")
    for problem, named, advice in (
        ("lists patients more than once", [p for p in listed if listed[p] > 1], "a patient belongs to one split"),
        ("lists unknown patients", listed.keys() - {*patients, *left_out}, "remove them or correct their names"),
        ("leaves out patients", set(patients) - listed.keys(), "list them, or leave them out with --exclude"),
    ):
        if named:
            more = f" and {len(named) - 10} more" if len(named) > 10 else ""
            raise ValueError(f"{path}: {problem}: {', '.join(sorted(named)[:10])}{more}; {advice}")
    return {name: sorted(p for p, split in rows if split == name and p in patients) for name in SPLITS}


def _json_rows(path: Path) -> list[tuple[str, str]]:
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(listed, list) for listed in data.values()):
        raise ValueError(f'{path}: expected {{"train": [...], "val": [...], "test": [...]}}; correct it')
    return [(str(patient), split) for split, listed in data.items() for patient in listed]


def _csv_rows(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True))
    if not rows or not {"patient", "split"} <= rows[0].keys():
        raise ValueError(f"{path}: expected a first line with the columns patient and split, then a line a patient")
    return [((row["patient"] or "").strip(), (row["split"] or "").strip()) for row in rows]


def _drawn(groups: Mapping[str, str | None], seed: int) -> list[str]:
    """All patients, group by group, in drawn order."""
    return sorted(groups, key=lambda patient: (groups[patient] or "", stable_seed("split", seed, patient)))


def _parts(drawn: list[str], test: list[str], val_count: int) -> dict[str, list[str]]:
    """Test as given, val at even steps of the rest, and train, which keeps a patient where there is one."""
    rest = [patient for patient in drawn if patient not in set(test)]
    val = _spread(rest, max(0, min(val_count, len(rest) - 1)))
    train = [patient for patient in rest if patient not in set(val)]
    return {"train": sorted(train), "val": sorted(val), "test": sorted(test)}


def _rounded(value: float) -> int:
    return int(value + 0.5)


def _spread(patients: list[str], count: int) -> list[str]:
    """Take `count` at even steps of a list sorted by group, so that each group gives its share."""
    return [patients[(2 * i + 1) * len(patients) // (2 * count)] for i in range(count)]
