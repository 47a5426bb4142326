"""A device is the one that was asked for, or an error says why not."""

import pytest

from utils.device import pick_device


def test_auto_is_a_device_that_is_there() -> None:
    assert pick_device("auto").type in ("cpu", "cuda")


def test_a_named_device_is_that_device() -> None:
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["warp", "cuda:97"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be used"):
        pick_device(name)
