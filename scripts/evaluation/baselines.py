"""Trivial baselines: the mean frame, the model's decoder without content, and tokens of another patient."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import preprocess
from data.scoring.images import Reference
from data.shards.reader import ShardReader
from modeling.titok import TiTok
from scripts.files.codec import decode, read_tokens
from utils.baselines import borrowed, shuffled_within, zeroed

MEAN_FRAME_PATIENTS = 100  # patients for the mean frame, evenly spaced among more; more change the mean very little
Baseline = Callable[
    [Reference, bytes, bytes], np.ndarray
]  # (patient, its file, the file of the next patient) -> (S, S, D, T)


def without_content(model: TiTok, data: bytes) -> np.ndarray:
    """Decode with every transmitted id set to 0.

    Args:
        model: the model.
        data: compressed file of the patient.
    Returns:
        (S, S, D, T) float32.
    """
    tokens, header = read_tokens(model, data)
    return decode(model, zeroed(header.layout, tokens, (header.slices, header.phases)), header)


def exchanged(model: TiTok, data: bytes, next_data: bytes) -> np.ndarray:
    """Decode with the tokens of the next patient; for a single patient, with its own tokens at other slices or phases.

    Args:
        model: the model.
        data: compressed file of the patient.
        next_data: compressed file of the next patient; `data` itself if there is no other.
    Returns:
        (S, S, D, T) float32 in the shape of the patient.
    """
    tokens, header = read_tokens(model, data)
    grid = header.slices, header.phases
    if next_data is data:
        return decode(model, shuffled_within(header.layout, tokens, grid), header)
    source, other = read_tokens(model, next_data)
    return decode(model, borrowed(header.layout, source, (other.slices, other.phases), grid), header)


def mean_frame(reader: ShardReader, size: int, mode: str) -> tuple[np.ndarray, int]:
    """Return the mean of all frames of a split on the model grid.

    Args:
        reader: reader of the split.
        size: S.
        mode: `crop` or `fit`.
    Returns:
        (S, S) float32 in [0, 1], and the number of patients of the mean.
    """
    patients = list(reader.patients())
    chosen = patients[:: max(1, math.ceil(len(patients) / MEAN_FRAME_PATIENTS))]
    total, weight = np.zeros((size, size)), np.zeros((size, size))
    for patient in tqdm(chosen, desc="mean frame", unit="patient"):
        prepared = preprocess.prepare(reader.read_case(patient), size, mode)
        total += prepared.image[0].sum(axis=(2, 3), dtype=np.float64)
        weight += preprocess.model_field(prepared.geometry) * math.prod(prepared.image.shape[3:])
    return (total / np.maximum(weight, 1)).astype(np.float32), len(chosen)


def make_baselines(model: TiTok, folder: str | Path, patients: int) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Make the trivial baselines of a model.

    Args:
        model: the model.
        folder: folder or URL of the shards; the mean frame needs their train split.
        patients: number of patients that are scored.
    Returns:
        name -> function of the reconstruction, and name -> note for the report.
    """
    config, train = model.config, ShardReader(folder, "train")
    baselines: dict[str, Baseline] = {}
    notes: dict[str, str] = {}
    if train.samples and (model.ladder is None or config.geometry == "crop"):
        image, used = mean_frame(train, config.image_size, config.geometry)
        baselines["mean_frame"] = lambda reference, _, __: np.broadcast_to(
            image[..., None, None], reference.prepared.image.shape[1:]
        )
        notes["mean_frame"] = f"the mean frame on the model grid of {used} of {len(train.patients())} train patients"
    if model.ladder is not None:
        return baselines, notes
    baselines["tokens_zeroed"] = lambda _, data, __: without_content(model, data)
    notes["tokens_zeroed"] = "each patient decoded with every token id set to 0"
    baselines["tokens_shuffled"] = lambda _, data, next_data: exchanged(model, data, next_data)
    notes["tokens_shuffled"] = (
        "each patient decoded from the next patient's tokens, matched by relative slice and phase"
        if patients > 1
        else "one patient only: decoded from its own tokens half a stack (of one slice: half a cycle) away"
    )
    return baselines, notes
