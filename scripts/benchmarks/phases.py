"""Influence of the number of phases on the tokens: encoding with all phases and with every second phase.

    python scripts/benchmark.py phases --model mri_titok_tokenizer_stage1_output --data acdc_wds

Each frame is encoded together with all T phases of its cycle, and together with T/2 phases. The command prints the
fraction of token ids that differ, and the PSNR of both decoded cines on the model's grid. A model that works for any T
has few different ids and equal PSNR.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data.preprocess import model_field, prepare
from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from modeling.titok import TiTok
from utils.config.ranges import Positive
from utils.device import pick_device
from utils.files import user_path, write_json
from utils.metrics import finite_mean, frame_scores, psnr

HELP = "tokens of a frame, encoded with all phases and with half of them"


RANGES = {"limit": Positive}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--model", type=user_path, required=True, metavar="FOLDER", help="a trained model of layout frame")
    add("--data", type=folder_or_url, required=True, help="folder or URL of shards")
    add("--split", choices=SPLITS, default="test")
    add("--limit", type=int, help="use only the first patients of the split")
    add("--device", default="auto", help="auto, cpu, cuda ... (default auto: a GPU if there is one)")
    add("--output", type=user_path, metavar="FILE", help="write the figures as JSON")


def measure(model: TiTok, x: torch.Tensor, field: np.ndarray) -> dict[str, float]:
    """Share of changed ids, and PSNR in dB of the frames decoded from either, of a cine (1, C, S, S, D, T)."""
    few = x[..., ::2]
    tokens, tokens_of_few = model.encode(x, ed=0, es=1), model.encode(few, ed=0, es=1)
    ids, ids_of_few = (model.layout.split(each, *model.layout.grid(each))["frames"]  # (1, D, T, K)
                       for each in (tokens, tokens_of_few))  # fmt: skip
    original = few[0, 0].permute(2, 3, 0, 1).cpu().numpy()  # (D, T / 2, S, S)
    decoded = (model.decode_tokens(tokens)[..., ::2], model.decode_tokens(tokens_of_few))
    frames = [image[0].float().mean(0).permute(2, 3, 0, 1).cpu().numpy() for image in decoded]
    scores = [finite_mean(frame_scores(psnr, original, each, field).flat) for each in frames]
    changed = float((ids[:, :, ::2] != ids_of_few).float().mean())
    return {"changed_tokens": changed, "psnr_all": scores[0], "psnr_half": scores[1]}


def run(args: argparse.Namespace) -> None:
    """Measure every patient and print the means."""
    device, reader = pick_device(args.device), ShardReader(args.data, args.split)
    model = TiTok.from_pretrained(args.model).to(device)
    if model.tokenizer is None or model.config.layout != "frame":
        raise ValueError(f"--model {args.model}: has no tokens of frames; give a trained stage of layout frame")
    rows: list[dict[str, Any]] = []
    for patient in tqdm(list(reader.patients())[: args.limit], unit="patient"):
        case = reader.read_case(patient)
        if case.cine.shape[3] < 4:
            raise ValueError(f"{patient}: {case.cine.shape[3]} phases, expected 4 or more; give shards of cines")
        prepared = prepare(case, model.config.image_size, model.config.geometry)
        x = torch.from_numpy(prepared.image)[None].to(device)
        rows.append({"patient": patient, **measure(model, x, model_field(prepared.geometry))})
    mean = {key: finite_mean(row[key] for row in rows) for key in ("changed_tokens", "psnr_all", "psnr_half")}
    print(
        f"{args.model.name}, n = {len(rows)}: {100 * mean['changed_tokens']:.1f} % of the tokens change if every "
        f"second phase is omitted; {mean['psnr_all']:.2f} dB with all phases, {mean['psnr_half']:.2f} dB with half"
    )
    if args.output:
        write_json(args.output, {"command": "phases", "model": args.model.name, "mean": mean, "patients": rows})
