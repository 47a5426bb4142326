"""Speed of the tokenizer, compared with the published implementation, with random weights.

    published   sequence-first nn.MultiheadAttention, float32: scripts/benchmarks/shared/published.py
    fp32, bf16  this project's tokenizer with weights of that type

The implementations are measured alternately. The table has, for each variant and batch: milliseconds a frame, their
ratio to the published implementation, parameters, peak memory without weights and inputs, GFLOP a frame, and the
fraction of tokens that equal those of the published implementation. Weights are random; with trained weights, bf16 can
give another fraction.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from modeling.tokenizer import Tokenizer, VQModelConfig
from scripts.benchmarks.shared.published import Published
from scripts.benchmarks.shared.timing import gflop, in_turns, peak_mib
from utils.config.ranges import Positive
from utils.device import pick_device
from utils.files import user_path, write_json

HELP = "ms a frame to encode and decode, compared with the published implementation"
LATER = {"codebook_size": 8192, "token_size": 64, "use_l2_norm": False, "finetune_decoder": False, "is_legacy": False}
SIZES: dict[str, dict[str, Any]] = {  # of the published ImageNet tokenizers
    "l32": {"vit_enc_model_size": "large", "vit_dec_model_size": "large", "num_latent_tokens": 32},
    "b64": {"vit_enc_model_size": "base", "vit_dec_model_size": "base", "num_latent_tokens": 64},
    "s128": {"vit_enc_model_size": "small", "vit_dec_model_size": "small", "num_latent_tokens": 128},
    "bl64": {"vit_enc_model_size": "base", "vit_dec_model_size": "large", "num_latent_tokens": 64, **LATER},
    "bl128": {"vit_enc_model_size": "base", "vit_dec_model_size": "large", "num_latent_tokens": 128, **LATER},
    "sl256": {"vit_enc_model_size": "small", "vit_dec_model_size": "large", "num_latent_tokens": 256, **LATER},
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
WORKS = ("encode", "decode")
COLUMNS = ("variant", "batch", "work", "side", "ms", "ratio", "GFLOP", "peak MiB", "equal tokens")


RANGES = {"batch": Positive, "rounds": Positive}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--variants", nargs="+", choices=list(SIZES), default=list(SIZES))
    add("--batch", nargs="+", type=int, default=[8], help="frames in a batch (default 8)")
    add("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    add("--work", nargs="+", choices=WORKS, default=list(WORKS))
    add("--device", default="auto", help="auto, cpu, cuda ... (default auto: a GPU if there is one)")
    add("--rounds", type=int, default=3, help="number of interleaved repetitions; the median is reported (default 3)")
    add("--output", type=user_path, metavar="FILE", help="write the table as JSON")


def project_calls(tokenizer: Tokenizer, dtype: torch.dtype) -> dict[str, Callable[[Tensor], Tensor]]:
    """This project's encode and decode, in a type of weights."""

    def encode(pixels: Tensor) -> Tensor:
        return tokenizer.quantize_latents(tokenizer.latents(pixels.to(dtype))).indices

    def decode(ids: Tensor) -> Tensor:
        return tokenizer.decode(tokenizer.quantize.lookup(ids).to(dtype))

    return {"encode": encode, "decode": decode}


@torch.inference_mode()
def compare(config: VQModelConfig, batch: int, dtypes: list[str], works: list[str], rounds: int,
            device: torch.device) -> list[dict[str, Any]]:  # fmt: skip
    """One row a work and side: ms a frame, ratio to the published form, GFLOP a frame, peak MiB, equal tokens."""
    torch.manual_seed(0)
    plain = Tokenizer(config).eval().to(device)
    published = Published(plain)
    sides: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
        "published": {"encode": published.encode, "decode": published.decode}
    }
    for name in dtypes:
        copy = Tokenizer(config).eval()
        copy.load_state_dict(plain.state_dict())
        sides[name] = project_calls(copy.to(device, DTYPES[name]), DTYPES[name])
    pixels = torch.rand(batch, 3, config.image_size, config.image_size, device=device)
    inputs = {"encode": pixels, "decode": published.encode(pixels)}
    rows = []
    for work in works:
        calls = {name: partial(side[work], inputs[work]) for name, side in sides.items()}
        times = in_turns(calls, rounds, device)
        for name, call in calls.items():
            equal = (call() == inputs["decode"]).float().mean().item() if work == "encode" else None
            rows.append({
                "work": work, "side": name, "ms": 1e3 * times[name] / batch, "ratio": times[name] / times["published"],
                "gflop": gflop(call) / batch, "peak_mib": peak_mib(call, device), "equal_tokens": equal,
            })  # fmt: skip
    return rows


def run(args: argparse.Namespace) -> None:
    """Measure, print a table and write it to a file."""
    device, rows = pick_device(args.device), []
    print("  ".join(name.rjust(12) for name in COLUMNS))
    for variant in args.variants:
        config = VQModelConfig(**SIZES[variant])
        with torch.device("meta"):
            parameters = sum(p.numel() for p in Tokenizer(config).parameters())
        for batch in args.batch:
            for row in compare(config, batch, args.dtype, args.work, args.rounds, device):
                rows.append({"variant": variant, "parameters": parameters, "batch": batch, **row})
                equal = "" if row["equal_tokens"] is None else f"{row['equal_tokens']:.3f}"
                cells = (variant, str(batch), row["work"], row["side"], f"{row['ms']:.1f}", f"{row['ratio']:.2f}",
                         f"{row['gflop']:.1f}", f"{row['peak_mib']:.0f}", equal)  # fmt: skip
                print("  ".join(cell.rjust(12) for cell in cells), flush=True)
    if args.output:
        about = {"command": "tokenizer", "device": device.type, "threads": torch.get_num_threads()}
        about |= {"cpu_count": os.cpu_count(), "rounds": args.rounds, "torch": torch.__version__}
        write_json(args.output, {**about, "results": rows})
