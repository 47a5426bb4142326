"""Precompute the tokens of a training with the frozen tokenizer, so that the training runs without the encoder.

Research use only, not a medical device.

    python scripts/pretokenize.py config=configs/training/MRI/stage2/mri_titok_dit_fusion.yaml --variants 10
    accelerate launch scripts/train_mri_titok.py config=configs/training/MRI/stage2/mri_titok_dit_fusion.yaml \\
        dataset.tokens=...

The arguments are the recipe of the training, whose tokenizer must be frozen, and its key=value options. If the recipe
draws phases or augments samples in each epoch, --variants sets the number of epochs that are encoded; the training then
repeats these epochs. Anatomy tokens are not cached, because the segmenter is still trained.

Started by `torchrun --nproc_per_node N` or `accelerate launch --num_processes N`, the processes divide the samples,
each on its own GPU. The main process writes the cache, which is the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from tqdm import tqdm

from data.loading.dataset import CineDataset
from data.loading.loader import collate
from data.loading.processes import Loader
from data.loading.token_cache import description, first_frames, write_tokens
from data.shards.remote import folder_or_url
from modeling.titok import TiTok
from modeling.weights.identity import frame_tokens_hash
from modeling.weights.start import start_model
from scripts.recipe import RunConfig, training_data
from utils import ranks
from utils.config.ranges import Count, Positive, check_options
from utils.config.recipe import parse
from utils.device import exact_float32, pick_device
from utils.errors import user_errors
from utils.files import read_json, user_path
from utils.run.optim import select_trainable
from utils.types import Batch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@torch.inference_mode()
@exact_float32()
def encode(model: TiTok, batch: Batch) -> torch.Tensor:
    """Tokens of a training batch, (B, D, T, K) int64 on the CPU."""
    return model.encoder.frame_ids(batch.image, batch.phase).cpu()


def groups(dataset: CineDataset, most_frames: int) -> list[list[int]]:
    """Samples in order, in groups of equal numbers of frames and at most `most_frames` frames."""
    grouped: list[list[int]] = []
    for index in range(len(dataset)):
        frames = dataset.frames_of(index)
        fits = (
            grouped and dataset.frames_of(grouped[-1][0]) == frames and (len(grouped[-1]) + 1) * frames <= most_frames
        )
        if fits and dataset.unit != "stack":
            grouped[-1].append(index)
        else:
            grouped.append([index])
    return grouped


def fill(model: TiTok, dataset: CineDataset, folder: Path, described: dict[str, Any], options: argparse.Namespace,
         device: torch.device) -> float:  # fmt: skip
    """Write the cache by the main rank, from the tokens of all ranks; returns the seconds of encoding a frame."""
    first, frames = first_frames(dataset), groups(dataset, options.batch_frames)
    wheres = [[(variant, index) for index in part] for variant in range(options.variants) for part in frames]
    own, spent, encoded = ranks.share(wheres), 0.0, 0
    batch_bytes = dataset.sample_bytes * max(map(len, frames))
    loader = Loader(dataset, collate, options.workers, batch_bytes, batch_sampler=own)
    if loader.note is not None and ranks.is_main():
        print(loader.note)
    batches = iter(loader)
    cache = write_tokens(folder, described, int(first[-1])) if ranks.is_main() else nullcontext()
    with cache as tokens, tqdm(total=len(own), unit="batch", desc="tokenizing") as bar:
        for step in range(math.ceil(len(wheres) / ranks.world_size())):
            done = []
            if step < len(own):  # this rank can have one batch less than others
                where, batch = own[step], next(batches)
                start = time.perf_counter()
                ids = encode(model, batch.to(device)).flatten(0, 2).numpy()
                spent += time.perf_counter() - start
                encoded += len(ids)
                done.append((where[0][0], first[where[0][1]], first[where[-1][1] + 1], ids))
                bar.update()
            for variant, begin, end, ids in ranks.gather(done):
                if tokens is not None:
                    tokens[variant, begin:end] = ids
    return spent / max(1, encoded)


def check(options: argparse.Namespace, dataset: CineDataset, model: TiTok) -> None:
    """Refuse a recipe whose tokens cannot be cached."""
    if model.resampler is not None:
        raise ValueError("a cache holds tokens of frames, but the recipe's model.layout is sequence; train without one")
    if model.tokenizer is None or not model.encoder.is_frozen():
        raise ValueError(
            "the recipe trains tokenizer or adapters, whose tokens change at every step; give one of stage 2 or 3"
        )
    if dataset.drawn_phases is not None:
        raise ValueError(
            "a cache holds cines of one number of phases; set dataset.max_phases=null, here and in training"
        )
    if dataset.draws() and not options.variants_given:
        raise ValueError(
            "the recipe draws phases (dataset.phases) or augments samples (dataset.augment) in each epoch; give "
            "the number of epochs to encode with --variants, or leave both out of the recipe"
        )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s config=RECIPE [key=value ...] [options]",
    )
    add = parser.add_argument
    add("recipe", nargs="+", metavar="key=value", help="as of scripts/train_mri_titok.py")
    add("--variants", type=int, help="epochs to encode; required if the recipe draws phases or augments (else 1)")
    add("--output_dir", type=user_path, help="folder of the cache (default: tokens-HASH beside the shards)")
    add("--dtype", choices=list(DTYPES), default="fp32", help="bf16 is faster and changes tokens (default fp32)")
    add("--batch_frames", type=int, default=64, help="frames at a time (default 64)")
    add("--workers", type=int, default=min(2, os.cpu_count() or 1), help="loading processes (default up to 2)")
    add("--device", default="auto", help="auto, cpu, cuda ... (default auto: a GPU where there is one)")
    options = parser.parse_intermixed_args(argv)
    options.variants_given = options.variants is not None
    options.variants = 1 if options.variants is None else options.variants
    check_options(options, {"variants": Positive, "batch_frames": Positive, "workers": Count})
    return options


@user_errors()
@ranks.over_ranks()
def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    config = parse(RunConfig, [*options.recipe, "experiment.output_dir=unused", "dataset.tokens=null"])
    device = pick_device(options.device)
    model, _ = start_model(config.model, config.experiment.init_weight)
    select_trainable(model, config.training.trainable)
    dataset = training_data(config)
    if not isinstance(dataset, CineDataset):
        raise ValueError("dataset.stream is true, but a cache is read by index; set dataset.stream=false, here and in "
                         "training")  # fmt: skip
    check(options, dataset, model)
    described = description(
        dataset, frame_tokens_hash(model), model.layout.num_tokens, model.num_codes, options.variants, options.dtype
    )
    folder = options.output_dir or place_for(config.dataset.shards, described)
    if ranks.gather([is_done(folder, described)])[0]:
        print(f"{folder} holds these tokens already: nothing to do")
        return
    model.to(device, DTYPES[options.dtype])
    if options.dtype != "fp32":
        share = share_equal(config, dataset, options, device)
        print(f"{options.dtype}: {share:.3f} of the first sample's tokens are those of fp32")
    each = fill(model, dataset, folder, described, options, device)
    if not ranks.is_main():
        return
    step = config.training.global_batch_size * math.ceil(first_frames(dataset)[-1] / len(dataset))
    size = (folder / "tokens.npy").stat().st_size / 1e6
    print(f"{len(dataset)} {dataset.unit}s, {options.variants} variants, {size:.1f} MB")
    print(f"encoding took {1e3 * each:.2f} ms a frame: a step of {step} frames is spared {1e3 * each * step:.0f} ms")
    print(f"The cache is {folder}; train with dataset.tokens={folder}")


def is_done(folder: Path, described: dict[str, Any]) -> bool:
    """Return whether a folder holds these tokens already; raise an error if it holds something else."""
    if (folder / "tokens.json").is_file():
        existing = read_json(folder / "tokens.json")
        if isinstance(existing, dict) and all(existing.get(key) == value for key, value in described.items()):
            return True
    if folder.exists():
        raise ValueError(f"{folder}: exists and holds something else; choose another --output_dir")
    return False


def share_equal(config: RunConfig, dataset: CineDataset, options: argparse.Namespace, device: torch.device) -> float:
    """Return the fraction of the first sample's tokens that are equal with weights of the other type and in float32."""
    exact, _ = start_model(config.model, config.experiment.init_weight)
    batch = collate([dataset[0, 0]]).to(device)
    ids = [encode(exact.to(device, dtype), batch) for dtype in (torch.float32, DTYPES[options.dtype])]
    return float((ids[0] == ids[1]).float().mean())


def place_for(shards: str, described: dict[str, Any]) -> Path:
    """Return a folder beside local shards, named by a hash of its content."""
    place = folder_or_url(shards)
    if not isinstance(place, Path):
        raise ValueError(f"dataset.shards {shards} is a URL; give the folder of the cache with --output_dir")
    digest = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=4).hexdigest()
    return place / f"tokens-{digest}"


if __name__ == "__main__":
    main()
