"""What a number of bits can say about a whole cine: the PSNR of linear transform coding that is fitted to the data.

    python scripts/benchmark.py bound --data acdc_wds --bits 512 --output bound.json

The train split gives the transforms, the other split is coded. Two transforms are compared:

- `cine`: the principal components of whole cines. There are as many components as train patients less one.
- `frame`: cosines along the slices, harmonics along the cycle, and the principal components of what is left in the
  plane. Components are shared between slices and phases, so more of them can be learnt from the same patients.

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
from scipy.fft import dct, idct, irfft, rfft
from scipy.special import ndtr
from tqdm import tqdm

from data.preprocess import MODES, model_field, prepare, resize
from data.shards.manifest import SPLITS
from data.shards.reader import ShardReader
from data.shards.remote import folder_or_url
from utils.files import write_json
from utils.metrics import finite_mean, frame_scores, psnr

HELP = "PSNR of linear coding of whole cines at a number of bits, as a reference for 32 tokens a cine"
SIDE = 64  # of the components; finer detail has no share in some hundred bits
COMPONENTS = 256  # in the plane


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--data", type=folder_or_url, required=True, help="folder or URL of shards, with a train split")
    add("--split", choices=SPLITS, default="test", help="the split that is coded (default test)")
    add("--bits", type=float, nargs="+", default=[512.0], help="bits of a whole cine (default 512: 32 tokens of 16)")
    add("--image_size", type=int, default=128, help="side of the model's grid (default 128)")
    add("--geometry", choices=MODES, default="crop", help="of the model's grid (default crop)")
    add("--grid", type=int, nargs=2, default=(8, 20), metavar=("D", "T"), help="of the components (default 8 20)")
    add("--limit", type=int, help="use only the first patients of each split")
    add("--output", metavar="FILE", help="write the figures as JSON")


class Cine:
    """A cine on the model's grid, and on the smaller grid of the components.

    Args:
        frames: (D, T, S, S) in [0, 1].
        field: (S, S) bool, without padding.
    """

    def __init__(self, frames: np.ndarray, field: np.ndarray) -> None:
        self.frames, self.field = frames, field

    def small(self, grid: tuple[int, int]) -> np.ndarray:
        """Return (D, T, SIDE, SIDE) for D and T of the grid; phases are interpolated around the cycle."""
        depth, phases = self.frames.shape[:2]
        images = resize(self.frames, (SIDE, SIDE), order=1)
        return along_cycle(along_slices(images, slices_to(depth, grid[0])), phases, grid[1]).astype(np.float32)

    def psnr_of(self, small: np.ndarray) -> float:
        """Return the PSNR in dB of (D, T, SIDE, SIDE) after it is brought to the cine's own grid."""
        depth, phases, size = self.frames.shape[:3]
        images = along_slices(along_cycle(small, small.shape[1], phases), slices_to(small.shape[0], depth))
        return finite_mean(frame_scores(psnr, self.frames, resize(images, (size, size), order=1), self.field).flat)


def slices_to(length: int, new_length: int) -> np.ndarray:
    """Return the matrix (new_length, length) of linear interpolation between the middles of slices."""
    places = np.clip((np.arange(new_length) + 0.5) / new_length * length - 0.5, 0, length - 1)
    return np.maximum(0, 1 - abs(places[:, None] - np.arange(length))).astype(np.float32)


def along_slices(images: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Interpolate the first axis."""
    return np.tensordot(matrix, images, axes=1)


def along_cycle(images: np.ndarray, length: int, new_length: int) -> np.ndarray:
    """Interpolate the second axis, around the cycle."""
    places = np.arange(new_length) * length / new_length
    first, share = np.floor(places).astype(int), (places % 1).astype(np.float32)[None, :, None, None]
    return images[:, first % length] * (1 - share) + images[:, (first + 1) % length] * share


class CineComponents:
    """Principal components of whole cines, (patients, D, T, SIDE, SIDE)."""

    def __init__(self, cines: np.ndarray) -> None:
        self.shape, flat = cines.shape[1:], cines.reshape(len(cines), -1)
        self.mean = flat.mean(axis=0)
        values, vectors = np.linalg.eigh((flat - self.mean) @ (flat - self.mean).T)
        keep = values > values.max() * 1e-6
        self.basis = ((flat - self.mean).T @ (vectors[:, keep] / np.sqrt(values[keep]))).astype(np.float32)
        self.deviation = np.sqrt(values[keep] / (len(cines) - 1))

    def forward(self, cine: np.ndarray) -> np.ndarray:
        """Return the coefficients."""
        return (cine.ravel() - self.mean) @ self.basis

    def inverse(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the cine."""
        return (self.mean + self.basis @ coefficients.astype(np.float32)).reshape(self.shape)


class FrameComponents:
    """Cosines along slices, harmonics along phases, principal components in the plane."""

    def __init__(self, cines: np.ndarray) -> None:
        self.mean = cines.mean(axis=0)
        phases = cines.shape[2]
        weight = np.full(phases // 2 + 1, 2.0)  # a harmonic stands for two, but the first and the last of an even T
        weight[[0, -1] if phases % 2 == 0 else [0]] = 1
        self.scale = np.sqrt(weight).astype(np.float32)[:, None, None]
        images = np.concatenate([self._separate(cine).reshape(-1, SIDE**2) for cine in cines])
        _, vectors = np.linalg.eigh(images.T @ images)
        self.basis = vectors[:, ::-1][:, :COMPONENTS].astype(np.float32)
        self.deviation = np.sqrt(np.mean([self.forward(cine) ** 2 for cine in cines], axis=0)) + 1e-9

    def _separate(self, cine: np.ndarray) -> np.ndarray:
        waves = rfft(dct(cine - self.mean, axis=0, norm="ortho"), axis=1, norm="ortho")
        return np.concatenate([waves.real * self.scale, waves.imag * self.scale], axis=1)

    def forward(self, cine: np.ndarray) -> np.ndarray:
        """Return the coefficients."""
        separate = self._separate(cine)
        return separate.reshape(*separate.shape[:2], -1) @ self.basis

    def inverse(self, coefficients: np.ndarray) -> np.ndarray:
        """Return the cine."""
        parts = (coefficients.astype(np.float32) @ self.basis.T).reshape(*coefficients.shape[:2], SIDE, SIDE)
        half = parts.shape[1] // 2
        waves = (parts[:, :half] + 1j * parts[:, half:]) / self.scale
        phases = self.mean.shape[1]
        return idct(irfft(waves, phases, axis=1, norm="ortho"), axis=0, norm="ortho") + self.mean


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
    grid = (args.grid[0], args.grid[1])
    if min(*args.bits, args.image_size, *grid) <= 0:
        raise ValueError("--bits, --image_size and --grid must be above 0")
    train = np.stack([cine.small(grid) for cine in read(ShardReader(args.data, "train"), args)])
    if len(train) < 3:
        raise ValueError(f"--data {args.data}: the train split has {len(train)} patients, expected 3 or more")
    cines = list(read(ShardReader(args.data, args.split), args))
    if not cines:
        raise ValueError(f"--data {args.data}: the split {args.split} has no patients; choose another --split")
    small = [cine.small(grid) for cine in cines]

    def score(pictures: Iterable[np.ndarray]) -> float:
        return finite_mean(cine.psnr_of(picture) for cine, picture in zip(cines, pictures, strict=True))

    rows: list[dict[str, Any]] = [
        {"transform": "mean cine", "bits": 0.0, "psnr": score([train.mean(axis=0)] * len(cines))},
        {"transform": "none, grid of the components", "bits": None, "psnr": score(small)},
    ]
    transforms: dict[str, Callable[[np.ndarray], Any]] = {"cine": CineComponents, "frame": FrameComponents}
    for name, fit in transforms.items():
        transform = fit(train)
        coefficients = [transform.forward(cine) for cine in small]
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
