"""Evaluate models on a split: quality on native voxels, bits of the real file, trivial baselines, pictures.

Research use only, not a medical device.

    python scripts/evaluate.py --model mri_titok_e2e_stage3_output --data acdc_wds --split test --output_dir report

Each patient is packed into a compressed file in memory, and what is scored is decoded from those bytes alone. The last
--model is reported with baselines and pictures; the others are rows of the comparison.

Axes: S side of the model grid, D slices, T phases, K latent tokens a frame, A anatomy tokens a key frame.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from tqdm import tqdm

from data import bitstream, preprocess
from data.scoring import Reference, ceiling, cost, open_reference, score, to_native
from data.shards import SPLITS, ShardReader
from modeling.titok import TiTok
from utils import figures, report
from utils.baselines import borrowed, shuffled_within, zeroed
from utils.files import write_json, write_text
from utils.log import user_errors
from utils.metrics import cohort

MEAN_FRAME_PATIENTS = 100  # more train patients hardly move their mean; they are then taken evenly

Row = dict[str, Any]
Contender = Callable[[Reference, bytes, bytes], np.ndarray]  # (patient, its file, the next one's) -> (S, S, D, T)


def load_model(folder: Path, device: torch.device, batch_frames: int) -> TiTok:
    """A model from its folder, on its device, that takes `batch_frames` frames at a time."""
    model = TiTok.from_pretrained(folder).to(device).eval()
    model.frames_per_chunk = batch_frames
    return model


def compress(model: TiTok, reference: Reference) -> bytes:
    """A patient's compressed file."""
    x = torch.from_numpy(reference.prepared.image)[None].expand(-1, model.config.channels, -1, -1, -1, -1)
    tokens = model.encode(x.to(next(model.parameters()).device))[0].cpu().numpy()
    header = bitstream.header_for(
        reference.case,
        reference.prepared,
        num_latent_tokens=model.layout.num_tokens,
        num_anatomy_tokens=model.layout.num_anatomy,
        codebook_size=model.layout.codebook_size,
        anatomy_codebook_size=model.layout.anatomy_codebook_size,
    )
    return bitstream.pack(tokens, header)


def decode(model: TiTok, tokens: np.ndarray) -> np.ndarray:
    """Tokens (D, 2 + T*K + 2*A), and nothing else, to (S, S, D, T); a colour tokenizer's channels are averaged."""
    batch = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
    return model.decode_tokens(batch)[0].float().mean(0).cpu().numpy()


def decompress(model: TiTok, data: bytes) -> np.ndarray:
    """A compressed file, and nothing else, to (S, S, D, T)."""
    return decode(model, bitstream.unpack(data)[0])


def shuffled(data: bytes, next_data: bytes) -> np.ndarray:
    """The next patient's tokens in this patient's shape; of a single patient, its own at another place."""
    tokens, header = bitstream.unpack(data)
    if next_data is data:
        return shuffled_within(tokens, header.phases, header.num_anatomy_tokens)
    source, source_header = bitstream.unpack(next_data)
    return borrowed(source, source_header.phases, header.slices, header.phases, header.num_anatomy_tokens)


def mean_frame(reader: ShardReader, size: int, mode: str) -> tuple[np.ndarray, int]:
    """The mean of all frames of a split on the model grid (S, S), and how many patients went into it."""
    patients = list(reader.patients())
    chosen = patients[:: max(1, math.ceil(len(patients) / MEAN_FRAME_PATIENTS))]
    total, weight = np.zeros((size, size)), np.zeros((size, size))
    for patient in tqdm(chosen, desc="mean frame", unit="patient"):
        prepared = preprocess.prepare(reader.read_case(patient), size, mode)
        total += prepared.image[0].sum(axis=(2, 3), dtype=np.float64)
        weight += preprocess.model_field(prepared.geometry) * math.prod(prepared.image.shape[3:])
    return (total / np.maximum(weight, 1)).astype(np.float32), len(chosen)


def make_baselines(model: TiTok, folder: Path, patients: int) -> tuple[dict[str, Contender], dict[str, str]]:
    """What the model has to beat: name -> reconstruction, name -> note."""
    config, train = model.config, ShardReader(folder, "train")
    contenders: dict[str, Contender] = {
        "tokens_zeroed": lambda _, data, __: decode(model, zeroed(bitstream.unpack(data)[0])),
        "tokens_shuffled": lambda _, data, next_data: decode(model, shuffled(data, next_data)),
    }
    notes = {
        "tokens_zeroed": "each patient decoded with every token id set to 0",
        "tokens_shuffled": "each patient decoded from the next patient's tokens, matched by relative slice and phase"
        if patients > 1
        else "one patient only: decoded from its own tokens half a stack (of one slice: half a cycle) away",
    }
    if not train.samples:
        return contenders, notes
    image, used = mean_frame(train, config.image_size, config.geometry)
    contenders["mean_frame"] = lambda reference, _, __: np.broadcast_to(
        image[..., None, None], reference.prepared.image.shape[1:]
    )
    notes["mean_frame"] = f"mean over the frames of {used} of {len(train.patients())} train patients, on the model grid"
    return contenders, notes


def with_next(items: Iterable[tuple[Reference, bytes]]) -> Iterator[tuple[Reference, bytes, bytes]]:
    """Each patient with its file and the next patient's, the last with the first's; two patients are held at a time."""
    held: tuple[Reference, bytes] | None = None
    first = b""
    for item in items:
        if held is None:
            first = item[1]
        else:
            yield (*held, item[1])
        held = item
    if held is not None:
        yield (*held, first)


def evaluate(model: TiTok, reader: ShardReader, patients: Sequence[str], baselines: dict[str, Contender]) -> list[Row]:
    """Score a model, and baselines on the same patients.

    Args:
        model: in eval mode on its device.
        reader: of the split.
        patients: whom to score.
        baselines: name -> what is scored in place of the model's reconstruction.

    Returns:
        One row a patient: the figures of utils/report.py, `curve`, and `baselines`: name -> its figures.

    Raises:
        ValueError: naming the patient that cannot be scored.
    """

    def packed() -> Iterator[tuple[Reference, bytes]]:
        for patient in tqdm(patients, desc="evaluating", unit="patient"):
            reference = open_reference(reader.read_case(patient), model.config.image_size, model.config.geometry)
            yield reference, compress(model, reference)

    rows = []
    for reference, data, next_data in with_next(packed()):
        try:
            quality = score(reference, decompress(model, data))
            against = {name: score(reference, make(reference, data, next_data)) for name, make in baselines.items()}
        except ValueError as error:
            raise ValueError(f"{reference.case.patient}: {error}") from error
        slices, phases = reference.case.cine.shape[2:]
        about = {"patient": reference.case.patient, "slices": slices, "phases": phases}
        figures_ = {**quality, **cost(reference, data), "psnr_ceiling": ceiling(reference)}
        rows.append({**about, **figures_, "baselines": against})
    return rows


def summarize(rows: dict[str, list[Row]], notes: dict[str, str]) -> Row:
    """Means and spreads of every model and baseline; the last model's also at the top.

    Args:
        rows: model -> one row a patient, as `evaluate` gives them.
        notes: baseline -> what it is.

    Returns:
        {"model", "mean", "std", "n", "n_of", "models", "baselines", "cohort", "note"}.
    """
    model, last = list(rows.items())[-1]
    models = {name: cohort(patients, report.FIGURES) for name, patients in rows.items()}
    baselines = {
        name: {**cohort([row["baselines"][name] for row in last], report.QUALITY), "note": note}
        for name, note in notes.items()
    }
    counted = {
        "patients": len(last),
        "slices": sum(row["slices"] for row in last),
        "frames": sum(row["slices"] * row["phases"] for row in last),
    }
    return {
        "model": model, **models[model], "models": models, "baselines": baselines, "cohort": counted,
        "note": report.NOTE,
    }  # fmt: skip


def choose(rows: Sequence[Row]) -> dict[str, Row]:
    """The patients of best, median and worst PSNR, each once: name -> row."""
    ranked = sorted(rows, key=lambda row: -row["psnr"])
    places = {"best": 0, "worst": len(ranked) - 1, "median": len(ranked) // 2}
    chosen: dict[str, Row] = {}
    for name, place in places.items():
        if not any(row is ranked[place] for row in chosen.values()):
            chosen[name] = ranked[place]
    return {name: chosen[name] for name in ("best", "median", "worst") if name in chosen}


def draw(model: TiTok, reader: ShardReader, rows: Sequence[Row], summary: Row, folder: Path) -> list[report.Figure]:
    """Save the pictures of the best, the median and the worst patient, decoded once more."""
    drawn = []
    for name, row in tqdm(choose(rows).items(), desc="pictures", unit="patient"):
        reference = open_reference(reader.read_case(row["patient"]), model.config.image_size, model.config.geometry)
        case, (top, _) = reference.case, reference.box
        decoded = to_native(reference, decompress(model, compress(model, reference)))
        row_of_heart = int(np.clip(round(preprocess.heart_center(case.cine)[0]), top.start, top.stop - 1)) - top.start
        text = report.caption(row, summary)
        picture = figures.Picture(
            original=reference.original,
            reconstruction=decoded,
            spacing_mm=case.spacing_mm[:2],
            slices=figures.pick_slices(row["slices"], None if reference.heart is None else reference.heart.sum((1, 2))),
            phases=figures.pick_phases(row["phases"], case.ed, case.es),
            heart_row=row_of_heart,
            caption=text,
        )
        figures.draw_frames(folder / f"{name}_frames.png", picture)
        drawn.append(report.Figure(f"{name.capitalize()} patient", text, folder / f"{name}_frames.png"))
        if row["phases"] > 1:
            figures.draw_profile(folder / f"{name}_profile.png", picture)
            drawn.append(report.Figure(f"{name.capitalize()} patient: motion", text, folder / f"{name}_profile.png"))
    return drawn
