"""Speed of `TiTok.decode_tokens` in milliseconds a frame.

Weights are random unless --model names a trained model. The weights have no influence on the time.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modeling.config import ModelConfig
from modeling.titok import TiTok
from scripts.benchmarks.shared.timing import gflop, in_turns, peak_mib
from scripts.benchmarks.tokenizer import DTYPES
from utils.config.ranges import Pixels, Positive
from utils.device import pick_device
from utils.files import user_path, write_json

HELP = "ms a frame of TiTok.decode_tokens; the target is 5 ms on a GPU"


RANGES = {
    "patch": Positive, "image_size": Pixels, "phases": Positive, "batch": Positive, "steps": Positive,
    "rounds": Positive,
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--model", metavar="FOLDER", help="a trained model (default: random weights, see --size)")
    add("--size", nargs="+", choices=("S", "B", "L"), default=["B"], help="sizes of the DiT (default B)")
    add("--patch", nargs="+", type=int, default=[16], help="patch sizes of the DiT (default 16)")
    add("--draft", action="store_true", help="the DiT corrects a draft from the decoder of the published L-32")
    add("--image_size", type=int, default=256, help="side of a frame (default 256)")
    add("--phases", type=int, default=20, help="frames of a slice (default 20)")
    add("--batch", nargs="+", type=int, default=[1], help="slices in a batch (default 1)")
    add("--steps", nargs="+", type=int, default=[1], help="network evaluations: 1, or more with realism 1 (default 1)")
    add("--dtype", nargs="+", choices=list(DTYPES), default=["fp32", "bf16"])
    add("--device", default="auto", help="auto, cpu, cuda ... (default auto: a GPU if there is one)")
    add("--rounds", type=int, default=5, help="number of repetitions; the median is reported (default 5)")
    add("--output", type=user_path, metavar="FILE", help="write the table as JSON")


def random_model(size: str, patch: int, image_size: int, draft: bool = False) -> TiTok:
    """A model with the published L-32's encoder left small: it takes no part in decoding."""
    config = ModelConfig()
    config.tokenizer.init, config.tokenizer.vq_model.image_size = "random", image_size
    config.tokenizer.vq_model.vit_enc_model_size = {"width": 64, "num_layers": 1, "num_heads": 1}
    config.adapters.phase_heads = 1
    config.dit.size, config.dit.patch_size, config.dit.draft = size, patch, draft
    return TiTok(config)


@torch.inference_mode()
def measure(model: TiTok, batch: int, phases: int, steps: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds, GFLOP and peak memory of one decode, the first two a frame."""
    if model.ladder is not None:
        raise ValueError("--model is a rate ladder; use scripts/benchmark.py ladder")
    size, grid = model.config.image_size, None if model.layout.has_grid else (1, phases)
    x = torch.rand(batch, model.config.channels, size, size, 1, phases, device=device)
    tokens = model.encode(x, ed=0, es=phases // 2)
    call = partial(model.decode_tokens, tokens, steps=steps, realism=float(steps > 1), seed=0, grid=grid)
    frames = batch * phases
    return {
        "ms": 1e3 * in_turns({"decode": call}, rounds, device)["decode"] / frames,
        "gflop": gflop(call) / frames,
        "peak_mib": peak_mib(call, device),
    }


def run(args: argparse.Namespace) -> None:
    """Measure, print a table and write it to a file."""
    device, rows = pick_device(args.device), []
    columns = ("model", "image", "dtype", "slices", "phases", "steps", "ms a frame", "GFLOP", "peak MiB", "M params")
    print("  ".join(name.rjust(10) for name in columns))
    if args.model:
        models = [(Path(args.model).name, partial(TiTok.from_pretrained, args.model))]
    else:
        chosen = [(size, patch) for size in args.size for patch in args.patch]
        models = [
            (f"{size}/{patch}", partial(random_model, size, patch, args.image_size, args.draft))
            for size, patch in chosen
        ]
    for name, make in models:
        for dtype in args.dtype:
            model = make().eval().to(device, DTYPES[dtype])
            decoding = ("dit.", "tokenizer.decoder.", "tokenizer.pixel")
            millions = sum(p.numel() for name, p in model.named_parameters() if name.startswith(decoding)) / 1e6
            for batch in args.batch:
                for steps in args.steps:
                    result = measure(model, batch, args.phases, steps, args.rounds, device)
                    config = {"image_size": model.config.image_size, "draft": model.config.dit.draft, "dtype": dtype,
                              "batch": batch, "phases": args.phases, "steps": steps}  # fmt: skip
                    rows.append({"model": name, **config, "parameters_m": millions, **result})
                    cells = (name, str(model.config.image_size), dtype, str(batch), str(args.phases), str(steps),
                             f"{result['ms']:.2f}", f"{result['gflop']:.1f}", f"{result['peak_mib']:.0f}",
                             f"{millions:.1f}")  # fmt: skip
                    print("  ".join(cell.rjust(10) for cell in cells), flush=True)
    if args.output:
        about = {"command": "decode", "device": device.type, "threads": torch.get_num_threads()}
        about |= {"cpu_count": os.cpu_count(), "rounds": args.rounds, "torch": torch.__version__}
        write_json(args.output, {**about, "results": rows})
