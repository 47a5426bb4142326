"""Train a recipe for two steps on a CPU: full-size model, random weights, phantoms of one or two frames.

    python scripts/benchmark.py rehearse config=configs/training/MRI/stage1/mri_titok_tokenizer_adapt.yaml

scripts/train_mri_titok.py trains, previews, saves and exports. Then the command prints time and peak resident memory.
Shards and output are in a temporary folder (up to 20 GB for an L-32), which is removed. Further `key=value` arguments
change the recipe as in a training. The command shows that a recipe runs, not how well it trains.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts.recipe import RunConfig
from utils.config.ranges import Ranges
from utils.config.recipe import parse
from utils.files import user_path, write_json

HELP = "two training steps of a recipe on a CPU, with time and peak memory"
SCRIPTS = Path(__file__).resolve().parents[1]
PHANTOMS = ("patients=4", "size=128", "slices=2", "phases=4")
FEW = {
    "experiment.init_weight": "null", "model.tokenizer.init": "random", "dataset.phases": 2,
    "dataset.max_phases": "null", "dataset.workers": 0,
    "training.max_steps": 2, "training.global_batch_size": 1, "training.gradient_accumulation_steps": 1,
    "training.log_every": 1, "training.mixed_precision": "auto", "training.recompute_frames": 1,
}  # fmt: skip


RANGES: Ranges = {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("recipe", nargs="+", metavar="key=value", help="recipe and options of a training")
    add("--folder", type=user_path, help="parent of the temporary folder (default: that of the system)")
    add("--output", type=user_path, metavar="FILE", help="write time and memory as JSON")


def measured(command: list[str], what: str) -> tuple[float, float]:
    """Seconds that a command takes, and its peak resident memory in GiB.

    Raises:
        ValueError: when it fails.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "ACCELERATE_USE_CPU": "true"})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{what} ended with exit status {process.returncode}, see above")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, usage.ru_maxrss * unit / 2**30


def run(args: argparse.Namespace) -> None:
    """Make phantoms, train two steps, report."""
    if not any(part.startswith("config=") for part in args.recipe):
        raise ValueError("config=FILE is missing; give the recipe to rehearse")
    parse(RunConfig, ["experiment.output_dir=unused", *args.recipe])  # a wrong recipe ends here
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        shards, output = f"{folder}/phantom_wds", f"{folder}/output"
        convert = [sys.executable, str(SCRIPTS / "convert_acdc_to_wds.py"), "--source", "phantom", "--source_option",
                   *PHANTOMS, "--output_dir", shards, "--workers", "1", "--val_fraction", "0.25"]  # fmt: skip
        measured(convert, "making the phantoms")
        few = FEW | {"dataset.shards": shards, "experiment.output_dir": output}
        options = [next(part for part in args.recipe if part.startswith("config="))]
        options += [f"{key}={value}" for key, value in few.items()]
        options += [part for part in args.recipe if not part.startswith("config=")]
        seconds, gib = measured([sys.executable, str(SCRIPTS / "train_mri_titok.py"), *options], "the training")
    print(f"{args.recipe[0]}: {seconds:.0f} s, peak resident memory {gib:.1f} GiB")
    if args.output:
        result: dict[str, Any] = {"command": "rehearse", "recipe": args.recipe, "seconds": seconds, "peak_gib": gib}
        write_json(args.output, result)
