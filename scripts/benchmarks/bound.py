"""PSNR of a whole cine at a number of bits, by linear transform coding that is fitted to the data.

    python scripts/benchmark.py bound --data acdc_wds --bits 512 --output bound.json

The transforms are fitted to the train split. The other split is coded. Two transforms are compared:

- `cine`: the principal components of whole cines. Their number is the number of train patients minus one.
- `frame`: cosines along the slices, harmonics along the cycle (modeling/resampling/waves.py), and principal components
  in the plane, shared by all of these waves. So more components can be fitted to the same patients.

A coefficient is rounded to a multiple of one step, and costs the ideal code length of a normal distribution with the
variance of the train split. The step is searched for, so that a patient costs `--bits` in the mean. The PSNR is that of
frames on the model's grid. A layout `sequence` of as many bits can be compared with these figures: they are not a limit
for a nonlinear model, but what such a model has to exceed.

Source: Huang and Schultheiss, Block quantization of correlated Gaussian random variables, 1963.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from tqdm import tqdm

from data.preprocess import MODES, model_field, prepare, resize
from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from modeling.heart.phases import along_stack, cycle
from modeling.resampling.waves import from_waves, to_waves
from utils.config.ranges import AboveZero, Pixels, Positive
from utils.files import write_json
from utils.metrics import finite_mean, frame_scores, psnr

HELP = "PSNR of linear coding of whole cines at a number of bits, as a reference for 32 tokens a cine"
SIDE = 64  # of the components; finer detail has no share in some hundred bits
COMPONENTS = 256  # in the plane
CPU = torch.device("cpu")


RANGES = {"bits": AboveZero, "image_size": Pixels, "limit": Positive}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--data", type=folder_or_url, required=True, help="folder or URL of shards, with a train split")
    add("--split", choices=SPLITS, default="test", help="the split that is coded (default test)")
    add("--bits", type=float, nargs="+", default=[512.0], help="bits of a whole cine (default 512: 32 tokens of 16)")
    add("--image_size", type=int, default=128, help="side of the model's grid (default 128)")
    add("--geometry", choices=MODES, default="crop", help="of the model's grid (default crop)")
    add("--limit", type=int, help="use only the first patients of each split")
    add("--output", metavar="FILE", help="write the figures as JSON")


class Cine:
    """A cine on the model's grid.

    Args:
        frames: (D, T, S, S) in [0, 1].
        field: (S, S) bool, without padding.
    """

    def __init__(self, frames: np.ndarray, field: np.ndarray) -> None:
        self.frames, self.field = frames, field
        self.position, self.phase = along_stack(frames.shape[0], CPU), cycle(frames.shape[1], CPU)[0]

    def waves(self) -> np.ndarray:
        """Return the coefficients of the waves of the smaller frames, (SLICES, PHASES, SIDE * SIDE) float32."""
        small = torch.from_numpy(resize(self.frames, (SIDE, SIDE), order=1)).flatten(2).double()
        return to_waves(small, self.position, self.phase).float().numpy()

    def psnr_of(self, waves: np.ndarray) -> float:
        """Return the PSNR in dB of coefficients of waves, after they are brought to the cine's own grid."""
        small = from_waves(torch.from_numpy(waves).float()[None], self.position[None], self.phase[None])[0]
        images = resize(small.unflatten(2, (SIDE, SIDE)).numpy(), self.frames.shape[2:], order=1)
        return finite_mean(frame_scores(psnr, self.frames, images, self.field).flat)


class CineComponents:
    """Principal components of the waves of whole cines, (patients, SLICES, PHASES, M)."""

    def __init__(self, cines: np.ndarray) -> None:
        self.shape, flat = cines.shape[1:], cines.reshape(len(cines), -1)
        self.mean = flat.mean(axis=0)
        values, vectors = np.linalg.eigh((flat - self.mean) @ (flat - self.mean).T)
        keep = values > values.max() * 1e-6
        self.basis = ((flat - self.mean).T @ (vectors[:, keep] / np.sqrt(values[keep]))).astype(np.float32)
        self.deviation = np.sqrt(values[keep] / (len(cines) - 1))

    def forward(self, waves: np.ndarray) -> np.ndarray:
        """Return the coefficients of a cine."""
        return (waves.ravel() - self.mean) @ self.basis

    def inverse(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the waves of a cine."""
        return (self.mean + self.basis @ coefficients.astype(np.float32)).reshape(self.shape)


class FrameComponents:
    """Principal components in the plane, shared by all waves, (patients, SLICES, PHASES, M)."""

    def __init__(self, cines: np.ndarray) -> None:
        self.mean = cines.mean(axis=0)
        images = (cines - self.mean).reshape(-1, cines.shape[-1])
        _, vectors = np.linalg.eigh(images.T @ images)
        self.basis = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
        self.deviation = np.sqrt(np.mean([self.forward(cine) ** 2 for cine in cines], axis=0)) + 1e-9

    def forward(self, waves: np.ndarray) -> np.ndarray:
        """Return the coefficients of a cine."""
        return (waves - self.mean) @ self.basis

    def inverse(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the waves of a cine."""
        return coefficients.astype(np.float32) @ self.basis.T + self.mean


def code_length(symbols: np.ndarray, deviation: np.ndarray, step: float) -> float:
    """Return the bits of rounded coefficients under normal distributions, at least 2^-40 a symbol."""
    scale = deviation / step
    chance = ndtr((symbols + 0.5) / scale) - ndtr((symbols - 0.5) / scale)
    return float(-np.log2(np.maximum(chance, 2.0**-40)).sum())


def step_for(bits: float, coefficients: Iterable[np.ndarray], deviation: np.ndarray) -> float:
    """Return the step at which the coefficients cost `bits` in the mean over patients."""
    known, low, high = list(coefficients), 1e-4 * float(deviation.max()), 8 * float(deviation.max())
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        cost = np.mean([code_length(np.round(values / middle), deviation, middle) for values in known])
        low, high = (middle, high) if cost > bits else (low, middle)
    return high


def read(reader: ShardReader, args: argparse.Namespace) -> Iterable[Cine]:
    """The cines of a split on the model's grid."""
    for patient in tqdm(list(reader.patients())[: args.limit], unit="patient"):
        prepared = prepare(reader.read_case(patient), args.image_size, args.geometry)
        yield Cine(prepared.image[0].transpose(2, 3, 0, 1), model_field(prepared.geometry))


def run(args: argparse.Namespace) -> None:
    """Fit both transforms, code the other split, and print the means."""
    train = np.stack([cine.waves() for cine in read(ShardReader(args.data, "train"), args)])
    if len(train) < 3:
        raise ValueError(f"--data {args.data}: the train split has {len(train)} patients, expected 3 or more")
    cines = list(read(ShardReader(args.data, args.split), args))
    if not cines:
        raise ValueError(f"--data {args.data}: the split {args.split} has no patients; choose another --split")
    waves = [cine.waves() for cine in cines]

    def score(coded: Iterable[np.ndarray]) -> float:
        return finite_mean(cine.psnr_of(each) for cine, each in zip(cines, coded, strict=True))

    rows: list[dict[str, Any]] = [
        {"transform": "mean cine", "bits": 0.0, "psnr": score([train.mean(axis=0)] * len(cines))},
        {"transform": "waves alone", "bits": None, "psnr": score(waves)},
    ]
    transforms: dict[str, Callable[[np.ndarray], Any]] = {"cine": CineComponents, "frame": FrameComponents}
    for name, fit in transforms.items():
        transform = fit(train)
        coefficients = [transform.forward(cine) for cine in waves]
        rows.append({"transform": name, "bits": None, "psnr": score(map(transform.inverse, coefficients))})
        for bits in args.bits:
            step = step_for(bits, coefficients, transform.deviation)
            rounded = (transform.inverse(step * np.round(values / step)) for values in coefficients)
            rows.append({"transform": name, "bits": bits, "psnr": score(rounded)})
    for row in rows:
        bits = "not rounded" if row["bits"] is None else f"{row['bits']:g} bits"
        print(f"{row['transform']}, {bits}: {row['psnr']:.2f} dB")
    print(f"{len(train)} train patients, {len(cines)} coded patients of the split {args.split}")
    if args.output:
        write_json(args.output, {"command": "bound", "train": len(train), "n": len(cines), "rows": rows})
