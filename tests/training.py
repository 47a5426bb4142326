"""Tiny recipes, and how tests run the training script."""

import importlib
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from accelerate.state import AcceleratorState

from tests.tiny import TINY

script = importlib.import_module("scripts.train_mri_titok")
SIZE = json.dumps(TINY)
COMMON = f"""
model:
  geometry: crop
  adapters: {{phase_layers: 1, phase_heads: 2}}
  dit: {{size: {SIZE}, patch_size: 8, head_channels: 4}}
dataset: {{unit: slice, phases: 4, workers: 0}}
optimizer: {{learning_rate: 1.0e-3, warmup_steps: 2}}
"""
STAGE1 = (
    COMMON.replace("  geometry: crop\n", f"""  geometry: crop
  decoder: titok
  tokenizer:
    init: random
    vq_model: {{image_size: 32, codebook_size: 64, token_size: 6, num_latent_tokens: 8, finetune_decoder: false,
      is_legacy: false, vit_enc_model_size: {SIZE}, vit_dec_model_size: {SIZE}, vit_enc_patch_size: 8,
      vit_dec_patch_size: 8}}
""")
    + """
losses: {reconstruction: {}, commitment: {}, codebook_usage: {}}
training: {trainable: ["tokenizer.*", "adapters.*"], max_steps: 4, global_batch_size: 4, continuous_steps: 2,
  log_every: 1, preview_every: 4, checkpoint_every: 2}
"""
)  # fmt: skip
STAGE2 = (
    COMMON
    + """
losses: {flow: {}, pixel: {}}
training: {trainable: ["dit.*"], max_steps: 4, global_batch_size: 4, log_every: 1, preview_every: 4,
  checkpoint_every: 2}
"""
)
STAGE3 = STAGE2.replace('["dit.*"]', '["dit.blocks.1.*", "dit.head.*"]')


class Done(NamedTuple):
    """How a run ended and what it said."""

    returncode: int
    stdout: str
    stderr: str


def train(folder: Path, recipe: str, shards: Path, output: str, *more: str) -> Done:
    """Run the training script in this process, from `folder`: a new process would spend seconds on imports alone."""
    options = (f"config={recipe}.yaml", f"dataset.shards={shards}", f"experiment.output_dir={output}", *more)
    AcceleratorState._reset_state(reset_partial_state=True)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(sys, "argv", ["train_mri_titok.py", *options])
        try:
            script.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def curve(folder: Path, name: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a log without what was measured with a clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "speed"} for line in lines]
