"""The work of a training step is counted as by hand, and its expected time follows from the stated assumptions."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from modeling.layers import recompute
from modeling.layers.transformer import Attention
from modeling.titok import TiTok
from scripts import benchmark
from scripts.benchmarks.memory import FUSED, forward, needed, set_up
from scripts.benchmarks.scale import Assumed, count, expected, flop_of_sample
from scripts.benchmarks.shared.flop import BACKWARD, FORWARD, RECOMPUTED, Flop
from scripts.benchmarks.shared.saved import like_a_gpu
from scripts.recipe import RunConfig
from tests.training import STAGE1, STAGE2
from utils.config.recipe import parse

TINY_MODEL = ("model.tokenizer.init=random", "model.tokenizer.vq_model.image_size=32", "experiment.output_dir=x")
LOSSES = STAGE2.replace("flow: {}, ", "flow: {}, cycle: {curve: 1.0}, perceptual: {}, ")
SEGMENTS = ("model.conditioning={name: resnet18}", "dataset.key_frames=true")


def recipe(folder: Path, text: str, *more: str) -> RunConfig:
    (folder / "r.yaml").write_text(text)
    return parse(RunConfig, [f"config={folder / 'r.yaml'}", *TINY_MODEL, *more])


def of_sample(config: RunConfig) -> dict[str, Any]:
    return flop_of_sample(config, set_up(config, 2, 4))


def test_a_linear_layer_costs_two_flop_a_product_and_twice_that_in_its_backward_pass() -> None:
    flop, layer = Flop(), nn.Linear(16, 32)
    with flop.counting():
        y = layer(torch.zeros(8, 16, requires_grad=True))
    flop.part = BACKWARD
    with flop.counting(times=3):
        y.sum().backward()
    assert flop.of(FORWARD, 4) == 2 * 8 * 16 * 32 and flop.of(BACKWARD, 4) == 3 * 2 * 2 * 8 * 16 * 32
    assert flop.of(FORWARD, 2) == flop.of(RECOMPUTED, 4) == 0


@pytest.mark.parametrize("fake", [False, True])
def test_fused_attention_costs_two_products_and_five_in_its_backward_pass(fake: bool) -> None:
    count, length, width, heads = 3, 10, 16, 2
    linear, product = 2 * count * length * width * 4 * width, 2 * count * length * length * width
    flop = Flop()
    with sdpa_kernel(list(FUSED)), FakeTensorMode() if fake else sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        layer = Attention(width, heads)
        x = torch.zeros(count, length, width, requires_grad=True)
        with flop.counting(), torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        flop.part = BACKWARD
        with flop.counting():
            y.sum().backward()
    assert flop.of(FORWARD, 2) == linear + 2 * product and flop.of(BACKWARD, 2) == 2 * linear + 5 * product
    assert flop.of(FORWARD, 4) == flop.of(BACKWARD, 4) == 0


def test_what_a_checkpoint_computes_again_is_counted_apart_and_nested_blocks_count_once() -> None:
    flop, first, second = Flop(), nn.Linear(16, 16, bias=False), nn.Linear(16, 32, bias=False)
    x = torch.zeros(8, 16, requires_grad=True)
    with flop.counting(), flop.counting():
        y = recompute.recomputed(lambda x: second(first(x).exp()), 4, x)
    flop.part = BACKWARD
    with flop.counting():
        y.sum().backward()
    one, two = 2 * 8 * 16 * 16, 2 * 8 * 16 * 32
    assert flop.of(FORWARD, 4) == one + two and flop.of(BACKWARD, 4) == 2 * (one + two)
    assert flop.of(RECOMPUTED, 4) == one  # the output of the second is not needed, and not computed again
    assert torch.utils.checkpoint.checkpoint is checkpoint


@pytest.mark.parametrize(("text", "more"), [(STAGE1, ()), (LOSSES, SEGMENTS)], ids=["stage1", "stage2"])
def test_what_fake_tensors_count_is_what_a_real_step_of_two_samples_computes(
    text: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    config = recipe(tmp_path, text, *more, "training.recompute_frames=3", "training.mixed_precision=bf16")
    found, setup, flop = of_sample(config), set_up(config, 2, 4), Flop()
    model = setup.model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with sdpa_kernel(list(FUSED)):
        prediction = forward(model, config, setup.batch, 2, flop)._replace(step=10**9)
        batch = setup.batch._replace(
            **{name: torch.cat([x, x]) for name, x in setup.batch._asdict().items() if isinstance(x, torch.Tensor)}  # type: ignore[arg-type]
        )
        prediction = prediction._replace(image=batch.image, one_step=torch.ones(2, dtype=torch.bool))
        with flop.counting(), like_a_gpu():
            sums = setup.objective(prediction, batch)
        flop.part = BACKWARD
        with flop.counting():
            setup.objective.total(sums, torch.ones_like(sums)).backward()
    for part in (FORWARD, BACKWARD, RECOMPUTED):
        assert 2 * getattr(found["bf16"], part) == pytest.approx(flop.of(part, 2), rel=1e-6), part
        assert 2 * getattr(found["float32"], part) == pytest.approx(flop.of(part, 4), rel=1e-6), part


def test_recomputation_needs_more_operations_and_less_memory(tmp_path: Path) -> None:
    stored, again = (recipe(tmp_path, LOSSES, *SEGMENTS, f"training.recompute_frames={n}") for n in (0, 2))
    without, with_it = of_sample(stored)["float32"], of_sample(again)["float32"]
    assert without.recomputed == 0 < with_it.recomputed < with_it.forward
    assert without[:2] == with_it[:2]
    assert needed(again).total < needed(stored).total


def test_a_frozen_encoder_runs_in_float32_and_a_trained_one_in_16_bit(tmp_path: Path) -> None:
    frozen = of_sample(recipe(tmp_path, STAGE2, "training.mixed_precision=bf16"))
    trained = of_sample(recipe(tmp_path, STAGE1, "training.mixed_precision=bf16"))
    share = [found["float32"].forward / sum(x.forward for x in found.values()) for found in (frozen, trained)]
    assert share[0] > 0.2 and share[1] < 0.02
    assert of_sample(recipe(tmp_path, STAGE1))["bf16"] == (0, 0, 0)


def test_time_and_frames_per_second_follow_from_the_assumptions() -> None:
    assumed = Assumed(tflops=100, tflops_float32=10, mfu=0.5, bandwidth_gb_s=2)
    flop = {"bf16": int(25e12), "float32": int(5e12)}
    one, four = (expected(flop, int(4e9), 6, 60, gpus, assumed) for gpus in (1, 4))
    assert (one.compute_s, one.exchange_s, one.step_s, one.frames_per_s) == pytest.approx((1.5, 0.0, 1.5, 40.0))
    assert (four.compute_s, four.exchange_s) == pytest.approx((1.5, 2 * 3 / 4 * 4 / 2))
    assert four.frames_per_s == pytest.approx(4 * 60 / 4.5) and (one.global_batch, four.global_batch) == (6, 24)


def test_samples_of_a_gpu_can_be_given_and_accumulation_adds_passes_but_no_exchange(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "slices": 2, "phases": 4, "tflops": 1.0, "tflops_float32": 1.0, "mfu": 1.0, "bandwidth_gb_s": 1.0,
        "memory_gib": 80.0, "gpus": [2], "recipe": ["config=r.yaml"],
    }  # fmt: skip
    plain, more = (
        count(recipe(tmp_path, STAGE1, *options), argparse.Namespace(samples_per_gpu=samples, **given))
        for samples, options in ((None, ()), (3, ("training.gradient_accumulation_steps=2",)))
    )
    assert (plain["samples_per_gpu"], more["samples_per_gpu"]) == (4, 6)
    assert (plain["frames_per_gpu"], more["expected"][0]["global_batch"]) == (16, 12)
    ratio = more["flop_of_step_per_gpu"]["float32"] / plain["flop_of_step_per_gpu"]["float32"]
    assert ratio == pytest.approx(6 / 4) and more["gradient_bytes"] == plain["gradient_bytes"]
    model = TiTok(recipe(tmp_path, STAGE1).model)
    assert plain["parameters"] == sum(x.numel() for x in model.parameters())


def test_the_command_prints_what_it_assumes_and_writes_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path, STAGE1)
    written = tmp_path / "scale.json"
    options = ["--gpus", "1", "4", "--mfu", "0.3", "--memory_gib", "0.0001", "--output", str(written)]
    benchmark.main(["scale", f"config={tmp_path / 'r.yaml'}", *TINY_MODEL, *options])
    said, found = capsys.readouterr().out, json.loads(written.read_text())
    for text in ("expected, not measured", "989 TFLOP/s", "30% are used", "50 GB/s", "does not fit"):
        assert text in said
    assert [row["gpus"] for row in found["expected"]] == [1, 4] and found["note"] == "expected, not measured"
    assert f"{found['expected'][1]['frames_per_s']:.0f}" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mfu", "1.2"], "--mfu is 1.2, expected a number above 0 and at most 1"),
        (["--tflops", "0"], "--tflops is 0, expected a number above 0"),
        (["--gpus", "0", "8"], "--gpus is 0, expected a number from 1"),
        (["model.layout=ladder", "model.decoder=none"], "depends on its data; measure it"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path, STAGE1)
    with pytest.raises(SystemExit):
        benchmark.main(["scale", f"config={tmp_path / 'r.yaml'}", *TINY_MODEL, *options])
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
