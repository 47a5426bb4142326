"""The speed of a run, and its line for people."""

import pytest
import torch

from utils.run import meter as module
from utils.run.meter import Meter, console_line


def test_speed_and_waiting_follow_from_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "perf_counter", lambda: now)
    meter = Meter(torch.device("cpu"))
    for _ in range(2):
        with meter.waiting():
            now += 1.0
        now += 4.0
        meter.add(frames=20)
    lap = meter.lap(steps_left=6)
    assert {name: lap[name] for name in ("frames_per_s", "data_wait", "eta_s")} == {
        "frames_per_s": 4.0, "data_wait": 0.2, "eta_s": 30.0
    }  # fmt: skip
    assert lap["memory_gib"] > 0
    now += 1.0
    meter.add(frames=1)
    assert meter.lap(0)["frames_per_s"] == 1.0


def test_a_step_is_one_line() -> None:
    speed = {"frames_per_s": 312.04, "data_wait": 0.031, "memory_gib": 2.06, "eta_s": 1870.4}
    values = {
        "loss": 0.0123,
        "pixel": 0.01,
        "count_pixel": 5.0,
        "grad_norm": 0.5,
        "learning_rate": 1e-4,
        "speed": speed,
    }
    assert console_line(100, 4000, values) == (
        "step 100/4000  loss 0.0123 (pixel 0.01)  learning rate 0.0001  gradient 0.5  312.0 frames/s  "
        "waiting for data 3%  memory 2.1 GiB  0:31:10 left"
    )
