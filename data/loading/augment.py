"""Augmentation of one training sample: a pure function of the sample's seed.

The whole image is flipped, turned, zoomed and shifted in one resampling onto the model grid, so that the grid shows
native pixels wherever the image has any; then contrast and noise change. One draw serves all slices and phases, so that
a beating heart never jumps. Image, mask and field move together and the pixel spacing follows the zoom, so that volumes
in mL stay true.

Axes: h and w those of the resized image (data/preprocess.py), S side of the model grid, D slices, T phases of the
cardiac cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from data.preprocess import Geometry, look
from utils.config.ranges import BelowOne, Fraction, Range
from utils.seeding import stable_seed


@dataclass
class AugmentConfig:
    """How far a training sample may be changed; 0 or false leaves that property alone.

    Args:
        enabled: whether the loader augments at all.
        rotate_degrees: largest turn either way, 0 to 180, in the plane in mm.
        scale: largest change of size as a fraction, 0 to below 1; 0.2 draws a zoom from 0.8 to 1.2.
        shift: largest shift along either side as a fraction of S, 0 to below 1.
        flip: mirror every second sample, on average, along W.
        gamma: contrast, 0 or more; the exponent is drawn log-uniformly from 1 / (1 + gamma) to 1 + gamma.
        noise: largest standard deviation of the Gaussian noise, 0 to 1 on images in [0, 1].
        roll: begin the cycle at any of its phases; a sample of one phase stays as it is.
    """

    enabled: bool = False
    rotate_degrees: Annotated[float, Range(0, 180)] = 0.0
    scale: BelowOne = 0.0
    shift: BelowOne = 0.0
    flip: bool = False
    gamma: Annotated[float, Range(0, 10)] = 0.0
    noise: Fraction = 0.0
    roll: bool = False


class Draw(NamedTuple):
    """What was drawn for one sample.

    Args:
        angle: of the turn, in radians.
        zoom: above 1 the heart grows.
        shift: (rows, columns) that the image moves by, as fractions of S.
        flip: whether it is mirrored.
        exponent: of the image's values.
        noise: standard deviation.
        start: where the cycle begins, as a fraction of it, 0 to below 1.
    """

    angle: float
    zoom: float
    shift: tuple[float, float]
    flip: bool
    exponent: float
    noise: float
    start: float

    @property
    def resamples(self) -> bool:
        """Whether pixels of the result lie between those of the image."""
        return self.angle != 0 or self.zoom != 1 or any(self.shift)

    @property
    def moves(self) -> bool:
        """Whether any pixel changes its place."""
        return self.flip or self.resamples


def draw(config: AugmentConfig, rng: np.random.Generator) -> Draw:
    """Draw every property, also those that are off, so that switching one changes none of the others."""
    angle, zoom, row, col, exponent = rng.uniform(-1, 1, 5).tolist()
    flip, noise, start = rng.random(3).tolist()
    return Draw(
        angle=math.radians(angle * config.rotate_degrees),
        zoom=1 + zoom * config.scale,
        shift=(row * config.shift, col * config.shift),
        flip=config.flip and flip < 0.5,
        exponent=math.exp(exponent * math.log1p(config.gamma)),
        noise=noise * config.noise,
        start=start * config.roll,
    )


def augment(
    arrays: dict[str, np.ndarray], config: AugmentConfig, seed: int, cycle: int, geometry: Geometry
) -> dict[str, np.ndarray]:
    """Change one sample at random within the limits of the config, whatever `config.enabled` says.

    Args:
        arrays: of a `Sample`, but in the whole resized image; of these change image (D, T, 1, h, w) float32 in [0, 1];
            mask (D, T, h, w) uint8; field (D, h, w) bool; spacing_mm (3,) float32; and by a roll has_label (D, T)
            bool, phase (T,) float32 and key_frames (2,) int64. They are left as they are.
        config: the limits.
        seed: of the sample; equal seeds give equal results.
        cycle: phases of the stored cycle, of which the sample may hold a part.
        geometry: where the model grid lies in the resized image.
    Returns:
        New arrays under the same names, of the same types and ranges, with h and w replaced by S; 0 and False where the
        image does not reach. Where it shrinks, it is interpolated without a low-pass filter.
    """
    rng = np.random.Generator(np.random.PCG64(stable_seed(seed, "augment")))
    drawn = draw(config, rng)
    arrays = roll(arrays, cycle, int(drawn.start * cycle))
    frames, mask = arrays["image"][:, :, 0], arrays["mask"]  # (D, T, h, w)
    field, spacing = arrays["field"], arrays["spacing_mm"].copy()  # (D, h, w)
    if drawn.moves:
        source = source_pixels(drawn, geometry, spacing)
        mask, field = nearest(mask, source), nearest(field, source)
        frames = (linear if drawn.resamples else nearest)(frames, source) * field[:, None]
        spacing[:2] /= drawn.zoom  # a magnified image has smaller pixels
    else:  # not even rounding touches a pixel
        frames, mask, field = (look(part, geometry) for part in (frames, mask, field))
    frames = _intensity(frames, field, drawn, rng)
    return {**arrays, "image": frames[:, :, None], "mask": mask, "field": field, "spacing_mm": spacing}


def roll(arrays: dict[str, np.ndarray], cycle: int, first: int) -> dict[str, np.ndarray]:
    """Begin the cycle at another of its phases: a circular shift in which frames, labels and key frames stay together.

    Where a cycle begins is the scanner's trigger, not anatomy. So the place in the cycle is counted anew from `first`:
    a rolled whole cycle has the `phase` of a stored one, and phase 0 is its first frame as ever.

    Args:
        arrays: of a `Sample`; image, mask and has_label (D, T, ...), phase (T,), key_frames (2,).
        cycle: phases of the stored cycle.
        first: the phase at which it is to begin, 0 to cycle - 1.
    Returns:
        New arrays, `phase` rising; the given ones for `first` 0 and for a single phase, which shows no cycle.
    """
    phase, keys = arrays["phase"], arrays["key_frames"]
    if not first or len(phase) == 1:
        return arrays
    places = (np.rint(phase * cycle).astype(np.int64) - first) % cycle  # whole numbers: no rounding creeps in
    order = np.argsort(places, kind="stable")
    moved = {name: arrays[name][:, order] for name in ("image", "mask", "has_label")}
    moved["phase"] = (places[order] / cycle).astype(np.float32)
    return {**arrays, **moved, "key_frames": np.where(keys < 0, keys, np.argsort(order)[keys])}


def affine(drawn: Draw, size: int, spacing_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map from a pixel of the result to the pixel of the unchanged grid it comes from, matrix @ p + offset.

    Args:
        drawn: flip, angle, zoom and shift; turn and zoom are about the centre of the grid.
        size: S.
        spacing_mm: (3,) before the zoom. The turn is a turn in mm: on oblong pixels a turn in pixels would shear.
    Returns:
        (2, 2) and (2,) float64, along rows and columns.
    """
    spacing = spacing_mm[:2].astype(np.float64)
    cos, sin = math.cos(drawn.angle), math.sin(drawn.angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    matrix = turn * spacing[None, :] / spacing[:, None] / drawn.zoom
    center = np.full(2, (size - 1) / 2)
    offset = center - matrix @ (center + np.array(drawn.shift) * size)
    if drawn.flip:
        matrix[1], offset[1] = -matrix[1], size - 1 - offset[1]
    return matrix, offset


def source_pixels(drawn: Draw, geometry: Geometry, spacing_mm: np.ndarray) -> np.ndarray:
    """Where in the resized image each pixel of the result lies, (S, S, 2) float64 rows and columns."""
    matrix, offset = affine(drawn, geometry.size, spacing_mm)
    pixels = np.moveaxis(np.indices((geometry.size, geometry.size)), 0, -1)
    return pixels @ matrix.T + offset + np.array(geometry.offset)


def linear(images: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Sample images (..., h, w) float32 linearly at (S, S, 2) places, (..., S, S); the rim goes on outside."""
    height, width = images.shape[-2:]
    scale = 2 / np.maximum(np.array([height, width]) - 1, 1)  # grid_sample counts from -1 to 1, columns first
    grid = torch.from_numpy((source * scale - 1)[..., ::-1].astype(np.float32))[None]
    channels = torch.from_numpy(np.ascontiguousarray(images)).reshape(1, -1, height, width)
    sampled = functional.grid_sample(channels, grid, "bilinear", padding_mode="border", align_corners=True)
    return sampled.numpy().reshape(*images.shape[:-2], *source.shape[:2])


def nearest(images: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Sample (..., h, w) by nearest neighbour at (S, S, 2) places, (..., S, S); 0 or False outside."""
    rows, columns = np.moveaxis(np.rint(source).astype(np.int64), -1, 0)
    height, width = images.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return images[..., rows.clip(0, height - 1), columns.clip(0, width - 1)] * inside


def _intensity(frames: np.ndarray, field: np.ndarray, drawn: Draw, rng: np.random.Generator) -> np.ndarray:
    """New frames (D, T, S, S) with contrast and noise, where field is (D, S, S); padding stays 0."""
    if drawn.exponent != 1:
        frames = frames ** np.float32(drawn.exponent)
    if drawn.noise:
        noise = rng.standard_normal(frames.shape, dtype=np.float32)
        frames = frames + np.float32(drawn.noise) * noise * field[:, None]
    return np.clip(frames, 0.0, 1.0)
