"""Which patient belongs to train, val or test: by patient, spread evenly over the groups, seeded."""

from __future__ import annotations

from collections.abc import Mapping

from utils.seeding import stable_seed


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
    drawn = sorted(groups, key=lambda patient: (groups[patient] or "", stable_seed("split", seed, patient)))
    if held_out:
        test = [patient for patient in drawn if patient in held_out]
    else:
        spare = 0 if test_fraction == 1 else 1
        test = _spread(drawn, min(_rounded(len(drawn) * test_fraction), len(drawn) - spare))
    rest = [patient for patient in drawn if patient not in set(test)]
    val = _spread(rest, max(0, min(_rounded(len(drawn) * val_fraction), len(rest) - 1)))
    train = [patient for patient in rest if patient not in set(val)]
    return {"train": sorted(train), "val": sorted(val), "test": sorted(test)}


def _rounded(value: float) -> int:
    return int(value + 0.5)


def _spread(patients: list[str], count: int) -> list[str]:
    """Take `count` at even steps of a list sorted by group, so that each group gives its share."""
    return [patients[(2 * i + 1) * len(patients) // (2 * count)] for i in range(count)]
