"""A device is the one that was asked for, or an error says why not."""

import os

import pytest
import torch

from utils.device import cpu_cores, exact_float32, pick_device


def test_auto_is_a_device_that_is_there() -> None:
    assert pick_device("auto").type in ("cpu", "cuda")


def test_a_named_device_is_that_device() -> None:
    assert pick_device("cpu").type == "cpu"


@pytest.mark.parametrize(("rank", "name"), [("1", "cuda:1"), ("2", "cuda:0")])
def test_each_rank_of_a_machine_has_its_own_gpu(rank: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", lambda _, device: asked.append(device) or torch.zeros(0))
    pick_device("auto")
    monkeypatch.setenv("LOCAL_RANK", rank)
    pick_device("auto")
    assert asked == ["cuda", name]


@pytest.mark.parametrize("name", ["warp", "cuda:97"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be used"):
        pick_device(name)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="older torch names it otherwise")
def test_float32_is_exact_inside_and_what_it_was_outside_even_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        chosen = torch.backends.cuda.matmul.fp32_precision
        with pytest.raises(ZeroDivisionError), exact_float32():
            assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == "ieee"
            raise ZeroDivisionError
        assert torch.backends.cuda.matmul.fp32_precision == chosen == "tf32"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot bind a process to cores")
def test_only_cores_that_the_process_may_run_on_are_counted() -> None:
    allowed = os.sched_getaffinity(0)
    assert cpu_cores() == len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cpu_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
