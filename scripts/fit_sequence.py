"""Fit 32 tokens for a whole cine to a trained tokenizer of frames, in closed form, without gradient training.

Research use only, not a medical device.

    python scripts/fit_sequence.py --model acdc128_output/stage1 --data acdc_wds --output_dir acdc128_output/harmonic

The model of stage 1 encodes the train cines. The script fits the harmonic resampler (docs/model.md) to the codebook
vectors of their tokens, and writes a model of layout `sequence` with the decoder of stage 1. All scripts that read a
model of layout `sequence` read it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path, PurePath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from tqdm import tqdm

from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from modeling.config import ModelConfig
from modeling.heart.phases import along_stack, cycle
from modeling.resampling.config import SequenceConfig
from modeling.resampling.fitting import fit
from modeling.resampling.harmonic import HarmonicResampler
from modeling.titok import TiTok
from scripts.files.codec import load_model, prepare_for
from utils.checkpoint import read_config, start_from
from utils.config.recipe import from_plain
from utils.device import exact_float32, pick_device
from utils.errors import user_errors
from utils.files import user_path

LEAST = 3  # cines of a fit


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=user_path, required=True, metavar="FOLDER", help="trained stage 1: layout frame, decoder titok")
    add("--data", type=folder_or_url, required=True, metavar="SHARDS", help="folder or URL of shards")
    add("--output_dir", type=user_path, required=True, metavar="DIR", help="folder of the fitted model")
    add("--num_tokens", type=int, default=32, help="tokens of a whole cine, 16 bits each (default 32)")
    add("--split", choices=SPLITS, default="train", help="split of the cines (default train)")
    add("--limit", type=int, help="use only the first LIMIT patients of the split")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default auto: a GPU if available)")
    add("--batch_frames", type=int, default=64, help="number of frames per batch (default 64)")
    args = parser.parse_args(argv)
    for name in ("num_tokens", "limit", "batch_frames"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected 1 or more")
    if not args.model.is_dir():
        raise FileNotFoundError(f"--model {args.model}: no such folder; give the output folder of a training run")
    check_output(args.output_dir)
    return args


def check_output(folder: Path) -> None:
    """Refuse an output folder that holds something else than an earlier result of this script."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    model = read_config(folder / "config.json").get("model") if (folder / "config.json").is_file() else None
    sequence = model.get("sequence") if isinstance(model, dict) else None
    if not isinstance(sequence, dict) or sequence.get("method") != "harmonic":
        raise ValueError(f"--output_dir {folder} exists and holds no fitted model; choose another --output_dir")


def sequence_config(source: TiTok, folder: Path, num_tokens: int) -> ModelConfig:
    """The options of the fitted model.

    Raises:
        ValueError: when the model is not of layout `frame` with the decoder of the tokenizer.
    """
    config = deepcopy(source.config)
    if config.layout != "frame" or config.decoder != "titok":
        raise ValueError(
            f"--model {folder} has layout {config.layout} and decoder {config.decoder}: expected layout frame and "
            "decoder titok; give the output folder of stage 1"
        )
    config.layout, config.conditioning = "sequence", {"name": "none"}
    options = {"num_tokens": num_tokens, "method": "harmonic"}
    config.sequence = from_plain(SequenceConfig, options, "model.sequence")
    return config


@exact_float32()
@torch.inference_mode()
def read_waves(model: TiTok, reader: ShardReader, patients: Sequence[str], device: torch.device) -> Tensor:
    """The waves of all P cines, (P, SLICES, PHASES, K * token_size) float64."""
    resampler, waves = model.resampler, []
    assert isinstance(resampler, HarmonicResampler)
    for patient in tqdm(patients, unit="patient"):
        image = torch.from_numpy(prepare_for(model, reader.read_case(patient)).image).to(device)  # (1, S, S, D, T)
        frames = image.permute(3, 4, 0, 1, 2)[None].expand(-1, -1, -1, model.config.channels, -1, -1)
        position, phase = along_stack(frames.shape[1], device), cycle(frames.shape[2], device)
        codes = model.encoder.frame_codes(model.encoder.frame_latents(frames, phase))
        waves.append(resampler.waves(codes[0], position, phase[0]))
    return torch.stack(waves)


@user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    """Encode the cines, fit the resampler and write the model."""
    args = parse_arguments(argv)
    device = pick_device(args.device)
    source = load_model(args.model, device, args.batch_frames)
    model = TiTok(sequence_config(source, args.model, args.num_tokens)).to(device).eval()
    start_from(model, source.state_dict(), str(args.model))
    model.chunks.frames = args.batch_frames
    reader = ShardReader(args.data, args.split)
    patients = list(reader.patients())[: args.limit]
    if len(patients) < LEAST:
        raise ValueError(
            f"--data {args.data}: {len(patients)} patients of the split {args.split}, expected {LEAST} or more"
        )
    assert isinstance(model.resampler, HarmonicResampler)
    fit(model.resampler, read_waves(model, reader, patients, device))
    model.taught_by = source.teachers()
    model.training_record = {
        "data": PurePath(str(args.data)).name,
        "cines": len(patients),
        "method": "closed form, scripts/fit_sequence.py",
        "first_weights": args.model.resolve().name,
    }
    model.save_pretrained(args.output_dir)
    levels = model.resampler.levels
    sizes = f"{int((levels > 1).sum())} coefficients, {float(levels.log2().sum()):.1f} bits in {args.num_tokens} tokens"
    print(f"{sizes}, fitted to {len(patients)} cines")
    print(f"The model is in {args.output_dir}")


if __name__ == "__main__":
    main()
