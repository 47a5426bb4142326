"""Split patients into train, val and test: stratified by group and seeded, or read the split from a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from data.shards.manifest import SPLITS
from utils.files import read_json
from utils.seeding import stable_seed
from utils.text import read_table


def split_patients(
    groups: Mapping[str, str | None],
    val_fraction: float,
    test_fraction: float,
    seed: int,
    held_out: frozenset[str] = frozenset(),
) -> dict[str, list[str]]:
    """Split patients into train, val and test, stratified by group.

    The sizes are the fractions of all patients, rounded. Train keeps at least one patient unless test takes all. The
    proportions of the groups are equal in all three parts, up to one patient.

    Args:
        groups: patient -> diagnosis, None where unknown.
        val_fraction: fraction of all patients for validation, in [0, 1).
        test_fraction: fraction of all patients for the test, in [0, 1]; not used if `held_out` is given.
        seed: random seed of the split; the draw of a patient does not depend on the other patients.
        held_out: the test patients, if the dataset defines them.
    Returns:
        {"train": [...], "val": [...], "test": [...]}, each sorted.
    Raises:
        ValueError: for a fraction outside its range.
    """
    if not (0 <= val_fraction < 1 and 0 <= test_fraction <= 1):
        raise ValueError(
            f"val_fraction is {val_fraction} and test_fraction {test_fraction}, expected values in [0, 1) and [0, 1]"
        )
    shuffled = _shuffled(groups, seed)
    if held_out:
        test = [patient for patient in shuffled if patient in held_out]
    else:
        spare = 0 if test_fraction == 1 else 1
        test = _spread(shuffled, min(_rounded(len(shuffled) * test_fraction), len(shuffled) - spare))
    return _parts(shuffled, test, _rounded(len(shuffled) * val_fraction))


def fold_patients(
    groups: Mapping[str, str | None],
    folds: int,
    fold: int,
    val_fraction: float,
    seed: int,
    held_out: frozenset[str] = frozenset(),
) -> dict[str, list[str]]:
    """Return one fold of a cross-validation, stratified by group.

    The patients are divided into `folds` parts of equal size, up to one patient. Part k is the test set of fold k, so
    each patient is tested in exactly one fold. Val is taken from the other parts as in `split_patients`.

    Args:
        groups: patient -> diagnosis, None where unknown.
        folds: number of folds, 2 or more.
        fold: index of the fold, 0 to folds - 1.
        val_fraction: fraction of all patients for validation, in [0, 1).
        seed: random seed of the split.
        held_out: the test patients of every fold, if the dataset defines them; part k of the others is then val.
    Returns:
        {"train": [...], "val": [...], "test": [...]}, each sorted.
    Raises:
        ValueError: for a fold out of range, fewer patients than folds, or a fraction outside its range.
    """
    shuffled = _shuffled(groups, seed)
    divided = [patient for patient in shuffled if patient not in held_out]
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
    return _parts(shuffled, part, _rounded(len(shuffled) * val_fraction))


def read_split(path: Path, patients: Collection[str], left_out: Collection[str] = ()) -> dict[str, list[str]]:
    """Read the split of each patient from a file.

    Args:
        path: JSON {"train": [...], "val": [...], "test": [...]}, or CSV with the columns patient and split.
        patients: patients that the file must list, each once.
        left_out: patients that the file may list, but that are not used.
    Returns:
        {"train": [...], "val": [...], "test": [...]}, each sorted.
    Raises:
        FileNotFoundError: when the file does not exist.
        ValueError: for unknown, repeated or missing patients, which are named, an unknown split, or another format.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    listed = Counter(patient for patient, _ in rows)
    if other := sorted({split for _, split in rows} - set(SPLITS)):
        raise ValueError(f"{path}: has the split {other[0]!r}, expected train, val or test; correct it")
    for problem, named, advice in (
        ("lists patients more than once", [p for p in listed if listed[p] > 1], "list each patient in one split"),
        ("lists unknown patients", listed.keys() - {*patients, *left_out}, "remove them or correct their names"),
        ("does not list patients", set(patients) - listed.keys(), "add them, or exclude them with --exclude"),
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
    return [(row["patient"], row.get("split", "")) for row in read_table(path, ("patient", "split"))]


def _shuffled(groups: Mapping[str, str | None], seed: int) -> list[str]:
    """Return all patients sorted by group, in random order within each group."""
    return sorted(groups, key=lambda patient: (groups[patient] or "", stable_seed("split", seed, patient)))


def _parts(shuffled: list[str], test: list[str], val_count: int) -> dict[str, list[str]]:
    """Return the given test set, val at even steps of the others, and train with the rest, at least one if possible."""
    rest = [patient for patient in shuffled if patient not in set(test)]
    val = _spread(rest, max(0, min(val_count, len(rest) - 1)))
    train = [patient for patient in rest if patient not in set(val)]
    return {"train": sorted(train), "val": sorted(val), "test": sorted(test)}


def _rounded(value: float) -> int:
    return int(value + 0.5)


def _spread(patients: list[str], count: int) -> list[str]:
    """Take `count` patients at even steps of a list sorted by group, in proportion to the sizes of the groups."""
    return [patients[(2 * i + 1) * len(patients) // (2 * count)] for i in range(count)]
