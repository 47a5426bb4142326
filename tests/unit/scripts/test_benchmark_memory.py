"""Every recipe fits the GPU that its head names, counted byte by byte; and every recipe below configs/ is a model."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling.objective import build_objective
from modeling.titok import TiTok
from scripts import benchmark
from scripts.benchmarks.memory import GB, forward, needed, synthetic_batch
from scripts.benchmarks.shared.saved import Saved
from scripts.recipe import RunConfig
from tests.tiny import REPOSITORY
from tests.training import STAGE1, STAGE2
from utils.config.recipe import parse
from utils.run.optim import select_trainable

LAUNCHES = REPOSITORY / "configs" / "accelerate"
CONFIGS = [path for path in sorted((REPOSITORY / "configs").rglob("*.yaml")) if path.parent != LAUNCHES]
PROMISED = [path for path in CONFIGS if "MRI" in path.parts]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_recipe_builds_its_model_what_trains_and_its_losses(path: Path) -> None:
    config = parse(RunConfig, [f"config={path}", "experiment.output_dir=out"])
    with torch.device("meta"):
        model = TiTok(config.model)
    assert select_trainable(model, config.training.trainable) and build_objective(config.losses).terms
    assert config.training.global_batch_size % config.training.gradient_accumulation_steps == 0


@pytest.mark.parametrize("path", PROMISED, ids=lambda path: path.stem)
def test_a_promised_recipe_fits_80_gb_and_with_the_override_of_its_head_24_gb(path: Path) -> None:
    head = re.search(r"# GPU memory .*: (\d+) GB(?:; on 24 GB: (.+))?", path.read_text())
    assert head, "the recipe's head says how much memory it needs"
    most = needed(parse(RunConfig, [f"config={path}"])).total
    assert most < 0.9 * 80 * GB and most / GB == pytest.approx(int(head[1]), abs=1)
    small = parse(RunConfig, [f"config={path}", *(head[2] or "").split()])
    assert (needed(small).total if head[2] else most) < 0.9 * 24 * GB
    assert small.training.global_batch_size % small.training.gradient_accumulation_steps == 0


def test_the_memory_of_a_ladder_is_that_of_the_positions_of_all_draws_whatever_the_number_of_slices() -> None:
    recipe = [f"config={REPOSITORY}/configs/demo/ladder.yaml", "model.ladder.positions=200"]
    once, twice = (
        needed(parse(RunConfig, [*recipe, "model.ladder.search=true", f"model.ladder.draws={draws}"]), slices, 4).saved
        for draws, slices in ((1, 3), (2, 6))
    )
    assert once > 0 and twice == pytest.approx(2 * once, rel=0.1)


def test_without_recomputation_stage_one_fits_no_gpu() -> None:
    stage1 = next(path for path in PROMISED if "tokenizer_adapt" in path.stem)
    assert needed(parse(RunConfig, [f"config={stage1}", "training.recompute_frames=0"])).total > 200 * GB


def test_storages_count_once_and_parameters_and_recomputed_parts_do_not() -> None:
    x, layer, saved = torch.zeros(8, 16, requires_grad=True), nn.Linear(16, 32), Saved()
    saved.leave_out(layer.parameters())
    with saved.counting():
        y = layer(x)  # keeps x and its weight
        z = y.exp()  # keeps z
        (z * z).sum()  # z again
    assert (saved.bytes, saved.chunk) == ((8 * 16 + 8 * 32) * 4, 0)
    with saved.counting():
        torch.utils.checkpoint.checkpoint(lambda x: layer(x).exp(), x, use_reentrant=False)
    assert (saved.bytes, saved.chunk) == ((8 * 16 + 8 * 32) * 4, 8 * 32 * 4)


@pytest.mark.parametrize("recompute", [0, 4])
@pytest.mark.parametrize(
    "text", [STAGE1, STAGE2.replace("flow: {}, ", "flow: {}, cycle: {curve: 1.0}, perceptual: {}, ")]
)
def test_what_is_counted_without_computing_is_what_a_real_pass_keeps(text: str, recompute: int, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    more = ["model.tokenizer.init=random", "model.tokenizer.vq_model.image_size=32", "experiment.output_dir=x",
            f"training.recompute_frames={recompute}", "training.global_batch_size=2"]  # fmt: skip
    if "cycle" in text:
        more += ["model.conditioning={name: resnet18}", "dataset.key_frames=true"]
    config = parse(RunConfig, [f"config={tmp_path / 'r.yaml'}", *more])
    model, batch, real, fake = TiTok(config.model), synthetic_batch(config, 2, 4), Saved(), Saved()
    model.recompute(recompute)
    select_trainable(model, config.training.trainable)
    real.leave_out(model.parameters())
    forward(model, config, batch, 2, real)
    with torch.device("meta"):
        model = TiTok(config.model)
    model.recompute(recompute)
    select_trainable(model, config.training.trainable)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake.leave_out(model.to_empty(device="cpu").parameters())
        forward(model, config, batch, 2, fake)
    assert (real.bytes, real.chunk) == (fake.bytes, fake.chunk) and real.bytes and bool(real.chunk) == bool(recompute)


def test_the_command_prints_the_table_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = f"config={REPOSITORY}/configs/demo/segmenter.yaml"
    benchmark.main(["memory", recipe, "training.recompute_frames=2", "--output", str(tmp_path / "memory.json")])
    written = json.loads((tmp_path / "memory.json").read_text())
    assert written["total"] == sum(
        written[name] for name in ("parameters", "gradients", "moments", "ema", "batch", "saved", "chunk")
    )
    assert "largest chunk" in capsys.readouterr().out


def test_a_recipe_is_rehearsed_with_its_time_and_its_memory(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text(STAGE1.replace("continuous_steps: 2", "continuous_steps: 0"))
    out = tmp_path / "rehearsal.json"
    benchmark.main(["rehearse", f"config={tmp_path / 'r.yaml'}", "--folder", str(tmp_path), "--output", str(out)])
    found = json.loads(out.read_text())
    assert found["seconds"] > 0 and found["peak_gib"] > 0.1  # Linux counts what the parent held at the fork
    assert "step 0 of 2" in (said := capfd.readouterr().out) and "peak resident memory" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml", "rehearsal.json"]
