"""A file has the size that was asked for, also where the first guess of the step is far away."""

import pytest

from scripts.files.rate import TRIALS, file_of_size


@pytest.mark.parametrize("away", [-60, -15, -2, 0, 3, 20, 60])
@pytest.mark.parametrize("goal", [70, 243, 380])
@pytest.mark.parametrize("slope", [0.6, 0.85, 1.2])
def test_a_few_trials_meet_the_size_from_any_first_step(away: int, goal: int, slope: float) -> None:
    def file_at(index: int) -> bytes:
        return bytes(150 + round(80_000 * 2 ** (-slope * (index - 243) / 32)))

    tried, wanted = [goal + away], len(file_at(goal))

    def write(index: int) -> bytes:
        tried.append(index)
        return file_at(index)

    found = file_of_size(wanted, tried[0], file_at(tried[0]), write)
    assert found is not None and 0.96 * wanted <= len(found) <= 1.01 * wanted
    assert len(tried) == len(set(tried)) <= TRIALS


def test_where_no_step_has_the_size_the_largest_file_below_it_is_used() -> None:
    found = file_of_size(1000, 10, bytes(2000), lambda index: bytes(2000 if index < 20 else 700))
    assert found is not None and len(found) == 700


def test_a_size_that_no_step_reaches_gives_no_file_or_the_finest() -> None:
    assert file_of_size(100, 440, bytes(500), lambda index: bytes(500)) is None
    assert file_of_size(10_000, 3, bytes(500), lambda index: bytes(501 - index)) == bytes(501)
