"""Augmentation of one training sample on the model grid: a pure function of the sample's seed.

One draw serves all slices and phases, so that a beating heart never jumps: roll of the cycle, flip, then rotation,
zoom and shift in one resampling, then contrast and noise. Image, mask and field move together and the pixel spacing
follows the zoom, so that volumes in mL stay true.

Axes: S side of the model grid, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from scipy import ndimage

from utils.ranges import BelowOne, Fraction, Range
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


def augment(arrays: dict[str, np.ndarray], config: AugmentConfig, seed: int, cycle: int) -> dict[str, np.ndarray]:
    """Change one sample at random within the limits of the config, whatever `config.enabled` says.

    Args:
        arrays: of a `Sample`, of which these change: image (1, S, S, D, T) float32 in [0, 1]; mask (S, S, D, T) uint8;
            field (S, S, D) bool; spacing_mm (3,) float32; and by a roll has_label (D, T) bool, phase (T,) float32 and
            key_frames (2,) int64. They are left as they are.
        config: the limits.
        seed: of the sample; equal seeds give equal results.
        cycle: phases of the stored cycle, of which the sample may hold a part.
    Returns:
        New arrays under the same names, of the same shapes, types and ranges; 0 and False where the moved image
        does not reach. Where it shrinks, it is interpolated without a low-pass filter.
    """
    rng = np.random.Generator(np.random.PCG64(stable_seed(seed, "augment")))
    drawn = draw(config, rng)
    arrays = roll(arrays, cycle, int(drawn.start * cycle))
    frames = arrays["image"][0].transpose(3, 2, 0, 1)  # (T, D, S, S)
    mask, field, spacing = arrays["mask"], arrays["field"], arrays["spacing_mm"].copy()
    if drawn.flip:
        frames, mask, field = frames[..., ::-1], mask[:, ::-1], field[:, ::-1]
    if drawn.angle or drawn.zoom != 1 or any(drawn.shift):  # else not even rounding touches a pixel
        matrix, offset = affine(drawn, len(field), spacing)
        frames, mask, field = _move(frames, mask, field, matrix, offset)
        spacing[:2] /= drawn.zoom  # a magnified image has smaller pixels
    frames = _intensity(frames, field, drawn, rng)
    image = frames.transpose(2, 3, 1, 0)[None]  # (1, S, S, D, T)
    return {**arrays, "image": image, "mask": mask.copy(), "field": field.copy(), "spacing_mm": spacing}


def roll(arrays: dict[str, np.ndarray], cycle: int, first: int) -> dict[str, np.ndarray]:
    """Begin the cycle at another of its phases: a circular shift in which frames, labels and key frames stay together.

    Where a cycle begins is the scanner's trigger, not anatomy. So the place in the cycle is counted anew from `first`:
    a rolled whole cycle has the `phase` of a stored one, and phase 0 is its first frame as ever.

    Args:
        arrays: of a `Sample`; image and mask with T last, has_label (D, T), phase (T,), key_frames (2,).
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
    moved = {name: arrays[name][..., order] for name in ("image", "mask", "has_label")}
    moved["phase"] = (places[order] / cycle).astype(np.float32)
    return {**arrays, **moved, "key_frames": np.where(keys < 0, keys, np.argsort(order)[keys])}


def affine(drawn: Draw, size: int, spacing_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The map from a pixel of the result to the pixel it comes from: source = matrix @ pixel + offset.

    Args:
        drawn: angle, zoom and shift; turn and zoom are about the centre of the grid.
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
    return matrix, center - matrix @ (center + np.array(drawn.shift) * size)


def _move(
    frames: np.ndarray, mask: np.ndarray, field: np.ndarray, matrix: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Resample frames (T, D, S, S) linearly, mask (S, S, D, T) and field (S, S, D) by nearest neighbour."""
    size = frames.shape[-2:]
    linear = np.empty(frames.shape, np.float32)
    for place in np.ndindex(frames.shape[:2]):
        ndimage.affine_transform(frames[place], matrix, offset, output=linear[place], order=1)
    pixels = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    # Where each pixel comes from, found once for the fields and masks of all slices and phases.
    source = ndimage.affine_transform(pixels, matrix, offset, order=0, cval=-1)
    inside = source >= 0
    field = field.reshape(pixels.size, -1)[source] & inside[..., None]
    mask = mask.reshape(pixels.size, -1)[source.reshape(-1)].reshape(mask.shape)
    mask[~inside] = 0
    return linear * field.transpose(2, 0, 1), mask, field


def _intensity(frames: np.ndarray, field: np.ndarray, drawn: Draw, rng: np.random.Generator) -> np.ndarray:
    """New frames (T, D, S, S) with contrast and noise; padding stays 0."""
    if drawn.exponent != 1:
        frames = frames ** np.float32(drawn.exponent)
    if drawn.noise:
        noise = rng.standard_normal(frames.shape, dtype=np.float32)
        frames = frames + np.float32(drawn.noise) * noise * field.transpose(2, 0, 1)
    return np.clip(frames, 0.0, 1.0)
