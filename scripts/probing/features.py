"""Features of patients for a linear probe: from tokens, from images, and from the labels of the heart.

Axes: D slices, T phases of the cardiac cycle, K latent tokens a frame, A anatomy tokens a key frame, N tokens of a
cine, C channels of an embedding, S side of the model grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from data.case import CineCase
from data.preprocess import prepare
from data.shards.reader import ShardReader
from modeling.titok import TiTok
from utils.clinical import FUNCTION, function

GRID = 8  # rows and columns of the downsampled picture
TOKENS, ANATOMY, TRIVIAL, LABELS = "tokens", "anatomy tokens", "trivial", "uses the labels of the heart"
CONSTANT, IMAGE, MASKS = "constant", "image", "ground truth"  # sources beside the models
PICTURE = f"{GRID}x{GRID} mean and temporal SD"
VOLUMES = (*(key for key in FUNCTION if key != "lv_ef"), "lv_ef")  # the EF last, so that it can be left out

Features = dict[str, np.ndarray]  # name -> numbers of one patient


class FeatureSet(NamedTuple):
    """The features of all patients by one method.

    Args:
        source: name of the model, CONSTANT, IMAGE or MASKS.
        name: what the features are.
        kind: TOKENS, ANATOMY, TRIVIAL or LABELS.
        values: (n, number of features) float64; NaN where a patient does not have them.
    """

    source: str
    name: str
    kind: str
    values: np.ndarray

    @property
    def label(self) -> str:
        """Source and name."""
        return f"{self.source}: {self.name}"


class Patient(NamedTuple):
    """A patient that can be probed, from the headers of the shards.

    Args:
        name: identifier.
        reader: reader of the patient's split.
        group: diagnosis, None where unknown.
        has_ef: whether ED and ES are labelled.
    """

    name: str
    reader: ShardReader
    group: str | None
    has_ef: bool


def list_patients(readers: Sequence[ShardReader]) -> list[Patient]:
    """List all patients of some splits, without reading images."""
    patients = []
    for reader in readers:
        for name, indices in reader.patients().items():
            entry = reader.samples[indices[0]]
            labelled = {entry.info["ed"], entry.info["es"]} <= set(entry.masks)
            patients.append(Patient(name, reader, entry.info["group"] or None, labelled))
    return patients


def extract(
    models: Mapping[str, TiTok], patients: Sequence[Patient], device: torch.device
) -> tuple[list[FeatureSet], np.ndarray]:
    """Read and encode all patients once.

    Args:
        models: name -> model in eval mode on the device; the image features are of the field of the first.
        patients: the patients.
        device: device of the models.

    Returns:
        The feature sets, and (n,) EF of the left ventricle in %, NaN where ED or ES is not labelled.
    """
    collected: dict[tuple[str, str, str], list[np.ndarray]] = {}
    ef = []

    def add(source: str, kind: str, features: Features) -> None:
        for name, values in features.items():
            collected.setdefault((source, name, kind), []).append(values.astype(np.float64).ravel())

    for patient in tqdm(patients, desc="encoding", unit="patient"):
        case = patient.reader.read_case(patient.name)
        prepared: dict[tuple[int, str], Tensor] = {}  # (1, 1, S, S, D, T) by field
        for model in models.values():
            field = model.config.image_size, model.config.geometry
            if field not in prepared:
                prepared[field] = torch.from_numpy(prepare(case, *field).image)[None]
        add(CONSTANT, TRIVIAL, {"no features": np.empty(0)})
        add(IMAGE, TRIVIAL, image_features(next(iter(prepared.values()))[0, 0]))
        for name, model in models.items():
            x = prepared[model.config.image_size, model.config.geometry]
            tokens, anatomy = token_features(model, x.to(device), case)
            add(name, TOKENS, tokens)
            add(name, ANATOMY, anatomy)
        volumes = heart_volumes(case)
        ef.append(volumes["lv_ef"])
        add(MASKS, LABELS, {"volumes of LV and RV": np.array([volumes[key] for key in VOLUMES])})
    sets = [FeatureSet(*key, np.stack(values)) for key, values in collected.items()]
    return sets, np.array(ef)


def heart_volumes(case: CineCase) -> dict[str, float]:
    """Volumes in mL, EF in % and LV mass in g by the ground truth; NaN where ED or ES is not labelled."""
    keys = (("ED", case.ed), ("ES", case.es))
    masks = {name: case.masks[phase] for name, phase in keys if phase is not None and phase in case.masks}
    return function(masks, case.spacing_mm)


def image_features(image: Tensor) -> Features:  # (S, S, D, T) in [0, 1]
    """Trivial features: mean and SD of the intensity, and a small picture of the mean frame and the temporal SD."""
    maps = torch.stack([image.mean((2, 3)), image.std(3, correction=0).mean(2)])  # (2, S, S)
    return {
        "mean and SD of the intensity": np.array([float(image.mean()), float(image.std(correction=0))]),
        PICTURE: F.adaptive_avg_pool2d(maps, GRID).numpy(),
    }


@torch.inference_mode()
def token_features(model: TiTok, x: Tensor, case: CineCase) -> tuple[Features, Features]:
    """Features from the tokens of one patient.

    Args:
        model: in eval mode, of layout `frame` or `sequence`.
        x: (1, 1, S, S, D, T) in [0, 1], on the device of the model.
        case: the patient; its ED and ES are used where they are known, else those that the model chooses.

    Returns:
        Features of the latent tokens, and of the anatomy tokens.
    """
    slices, phases = x.shape[4:]
    x = x.expand(-1, model.config.channels, -1, -1, -1, -1)
    parts = model.layout.split(model.encode(x, ed=case.ed, es=case.es)[0], slices, phases)
    if model.resampler is not None:
        return {"embeddings": model.resampler.lookup(parts["cine"]).cpu().numpy()}, {}
    ids = parts["frames"]  # (D, T, K)
    codes = model.tokenizer.quantize.codebook()[ids]  # (D, T, K, C)
    mean, spread = codes.mean((0, 1)), codes.std(1, correction=0).mean(0)  # (K, C)
    keys = codes[:, parts["key_phases"][0]].mean(0)  # (2, K, C) of ED and ES
    counts = torch.bincount(ids.flatten(), minlength=model.layout.codebook_size)
    tokens = {
        "mean": mean,
        "mean and temporal SD": torch.stack([mean, spread]),
        "ED and ES": keys,
        "bag of ids": (counts / ids.numel()).sqrt(),
    }
    anatomy = {}
    if math.prod(parts["anatomy"].shape):
        fsq = model.conditioning.tokens.fsq
        anatomy["anatomy of ED and ES"] = fsq.lookup(parts["anatomy"]).mean(0)  # (2, A, C)
    return to_numpy(tokens), to_numpy(anatomy)


def to_numpy(features: Mapping[str, Tensor]) -> Features:
    """Features as arrays."""
    return {name: values.cpu().numpy() for name, values in features.items()}
