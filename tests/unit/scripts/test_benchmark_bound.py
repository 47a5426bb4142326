"""The linear reference for whole cines at a number of bits."""

import json
from pathlib import Path

import numpy as np
import pytest

from scripts import benchmark
from scripts.benchmarks import bound
from tests.shards import made_up, make_shards


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound, "SIDE", 8)
    monkeypatch.setattr(bound, "COMPONENTS", 64)


def cines(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 3, 6, 64), np.float32)


def test_both_transforms_return_what_they_were_fitted_to() -> None:
    of = cines(5)
    for transform in (bound.CineComponents(of), bound.FrameComponents(of)):
        for cine in of:
            assert transform.inverse(transform.forward(cine)) == pytest.approx(cine, abs=2e-4)


def test_an_error_of_coefficients_of_frames_is_the_error_of_the_cine() -> None:
    of = cines(5)
    transform = bound.FrameComponents(of)
    values = transform.forward(of[0])
    noise = 0.01 * np.random.default_rng(1).standard_normal(values.shape)
    error = transform.inverse(values + noise) - of[0]
    assert np.linalg.norm(error) == pytest.approx(np.linalg.norm(noise), rel=1e-3)


def test_the_step_gives_the_bits_and_more_bits_a_smaller_step() -> None:
    random = np.random.default_rng(0)
    deviation = 2.0 ** -np.arange(12)
    known = [deviation * random.standard_normal(12) for _ in range(40)]
    steps = [bound.step_for(bits, known, deviation) for bits in (10, 40)]
    assert steps[0] > steps[1]
    for step, bits in zip(steps, (10, 40), strict=True):
        cost = np.mean([bound.code_length(np.round(values / step), deviation, step) for values in known])
        assert cost == pytest.approx(bits, rel=0.1) and cost <= bits


def test_a_smooth_cine_of_any_grid_is_restored_from_its_waves() -> None:
    phase = 2 * np.pi * np.arange(40) / 40
    frames = 0.5 + 0.3 * np.cos(phase)[None, :, None, None] * np.ones((3, 1, 8, 8))
    cine = bound.Cine(frames.astype(np.float32), np.ones((8, 8), bool))
    assert cine.waves().shape == (8, 20, 64) and cine.psnr_of(cine.waves()) > 40


def test_the_command_writes_all_rows_and_more_bits_are_never_worse(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "wds", [made_up(i, slices=2, phases=4) for i in range(4)])
    output = tmp_path / "bound.json"
    arguments = [
        "--data",
        str(shards),
        "--split",
        "train",
        "--bits",
        "8",
        "64",
        "--image_size",
        "16",
    ]
    benchmark.main(["bound", *arguments, "--output", str(output)])
    found = json.loads(output.read_text())
    quality = {(row["transform"], row["bits"]): row["psnr"] for row in found["rows"]}
    assert found["train"] == found["n"] == 4
    for name in ("cine", "frame"):
        assert quality[name, 8] <= quality[name, 64] + 0.1 and quality[name, 64] <= quality[name, None] + 0.5
