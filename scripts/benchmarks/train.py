"""Compare the training loop with bare steps on one resident batch, in the precision and memory options of torch.

    python scripts/benchmark.py train --steps 10 --rounds 3 config=configs/demo/stage2.yaml

`loop` is scripts/train_mri_titok.py itself: loading, draws, EMA, checks, log. `resident` is forward pass, losses,
backward pass and optimizer step on one batch that stays on the device. Their ratio is the share of the throughput that
the loop keeps. The other sides are `resident` with one change: bf16 or float32, channels-last weights, recomputed
activations, torch.compile. The number of phases is fixed, so that all steps have equal work. The sides take turns,
since the speed of a machine varies. Needs the data and the initial weights of the recipe.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.loading.stream import make_loader
from scripts.benchmarks.shared.timing import seconds
from scripts.recipe import RunConfig
from scripts.train_mri_titok import draw_parts, train
from scripts.training.setup import build, open_data
from utils.config.ranges import Positive
from utils.config.recipe import parse
from utils.device import cpu_cores, native_precision, pick_device
from utils.files import user_path, write_json
from utils.run.optim import parameter_groups

HELP = "the training loop, compared with forward, backward and optimizer steps on a resident batch"
SIDES = ("loop", "resident", "float32", "bf16", "channels_last", "recompute", "compile")
Side = Callable[[int], float]  # number of steps -> frames a second


RANGES = {"steps": Positive, "rounds": Positive}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("recipe", nargs="+", metavar="key=value", help="recipe and options of a training")
    add(
        "--sides",
        nargs="+",
        choices=SIDES,
        default=["loop", "resident"],
        help="what to measure (default loop resident)",
    )
    add("--steps", type=int, default=10, help="measured steps of each turn, after as many untimed ones (default 10)")
    add("--rounds", type=int, default=3, help="turns of each side (default 3)")
    add("--device", default="auto", help="auto, cpu, cuda ... (default auto: a GPU where there is one)")
    add("--output", type=user_path, metavar="FILE", help="write the table as JSON")


def loop(config: RunConfig, waits: list[float]) -> Side:
    """The training script; the shares of time that it waits for data are added to `waits`."""

    def measure(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            options = config.training
            config.experiment.output_dir = folder
            options.max_steps, options.log_every = 2 * steps, steps
            options.preview_every = options.checkpoint_every = 4 * steps  # once, after the last line of the log
            train(config, None)
            lines = map(json.loads, (Path(folder) / "log.jsonl").read_text().splitlines())
            speed: dict[str, float] = [line["speed"] for line in lines if "speed" in line][-1]
        waits.append(speed["data_wait"])
        return speed["frames_per_s"]

    return measure


def resident(config: RunConfig, side: str, device: torch.device) -> Side:
    """Steps on one batch that stays on the device."""
    model, _, objective, trainable, learned = build(config)
    model.to(device)
    objective.to(device)
    if side == "channels_last":
        model.to(memory_format=torch.channels_last)
    if side == "recompute":
        model.recompute(config.training.recompute_frames or config.dataset.phases or 1)
    precision = {"float32": "no", "bf16": "bf16"}.get(side, config.training.mixed_precision)
    precision = native_precision(device) if precision == "auto" else precision
    optimizer = torch.optim.AdamW(parameter_groups(trainable | learned, config.optimizer), fused=True)
    size = config.training.global_batch_size // config.training.gradient_accumulation_steps
    loaded = next(iter(make_loader(open_data(config, model), size)))
    [(batch, draws)] = draw_parts([loaded], model, config, config.training.continuous_steps, device)
    counts = objective.counts(batch, draws.one_step, draws.step)
    forward = torch.compile(model) if side == "compile" else model

    def step(number: int = 0) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            prediction = forward(batch, draws)
        objective.total(objective(prediction, batch), counts).backward()
        optimizer.step()
        optimizer.zero_grad()

    def measure(steps: int) -> float:
        step()  # caches of the processor are cold after another side
        spent = seconds(lambda: deque(map(step, range(steps)), maxlen=0), device)
        return steps * batch.image.shape[:3].numel() / spent

    return measure


def run(args: argparse.Namespace) -> None:
    """Measure all sides in turns, and print and write the table."""
    config = parse(RunConfig, [*args.recipe, "experiment.output_dir=unused", "dataset.max_phases=null"])
    device = pick_device(args.device)
    if device.type == "cpu":
        torch.backends.cuda.enable_flash_sdp(False)  # as in training
        torch.set_num_threads(cpu_cores())
    waits: list[float] = []
    sides = {side: loop(config, waits) if side == "loop" else resident(config, side, device) for side in args.sides}
    turns: list[dict[str, float]] = []
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
        turns.append({side: measure(args.steps) for side, measure in sides.items()})
    base = "resident" if "resident" in sides else args.sides[0]
    rows: list[dict[str, Any]] = []
    print(f"{'side':14} {'frames/s':>9} {'ratio':>6}    ratio to {base}: median over {args.rounds} rounds")
    for side in sides:
        ratio = statistics.median(turn[side] / turn[base] for turn in turns)
        rows.append({"side": side, "frames_per_s": statistics.median(turn[side] for turn in turns), "ratio": ratio})
        print(f"{side:14} {rows[-1]['frames_per_s']:9.2f} {ratio:6.3f}")
    if waits:
        print(f"the loop waits for data in {statistics.median(waits):.1%} of its time")
    if args.output:
        about = {"command": "train", "recipe": args.recipe, "device": device.type, "torch": torch.__version__}
        write_json(args.output, {**about, "rows": rows, "data_wait": waits})
