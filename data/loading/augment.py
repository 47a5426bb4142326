"""Augmentation of one training sample: a pure function of the sample's seed.

The whole image is flipped, rotated, zoomed and shifted in one resampling to the model grid, so pixels from
outside the crop can move into it. Then contrast and noise are changed. All slices and phases of a sample have the same
parameters, so the augmentation adds no motion. Image, mask and field are transformed together, and the pixel spacing is
divided by the zoom, so volumes in mL stay correct.

Axes: h, w height and width of the resized image (data/preprocess.py), S side of the model grid, D slices, T phases of
the cardiac cycle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from data.preprocess import Geometry, cut_square
from utils.config.ranges import BelowOne, Fraction, Range
from utils.seeding import stable_seed


@dataclass
class AugmentConfig:
    """Limits of the augmentation; 0 or false switches one change off.

    Args:
        enabled: whether the loader augments samples.
        rotate_degrees: largest rotation in either direction in degrees, 0 to 180, in the plane in mm.
        scale: largest change of size as a fraction, 0 to below 1; for 0.2 the zoom is 0.8 to 1.2.
        shift: largest shift along each axis as a fraction of S, 0 to below 1.
        flip: mirror along W with probability 1/2.
        gamma: contrast, 0 to 10; the exponent is log-uniform from 1 / (1 + gamma) to 1 + gamma.
        noise: largest standard deviation of the Gaussian noise, 0 to 1 on images in [0, 1].
        roll: begin the cycle at a random phase; a sample of one phase is not changed.
        blur: largest standard deviation of a Gaussian filter, in pixels; half of the samples are not filtered.
        bias: largest change of brightness by a smooth field, as of a coil, 0 to 1; for 0.5 the factor is
            exp(-0.5) to exp(0.5).
    """

    enabled: bool = False
    rotate_degrees: Annotated[float, Range(0, 180)] = 0.0
    scale: BelowOne = 0.0
    shift: BelowOne = 0.0
    flip: bool = False
    gamma: Annotated[float, Range(0, 10)] = 0.0
    noise: Fraction = 0.0
    roll: bool = False
    blur: Annotated[float, Range(0, 10)] = 0.0
    bias: Fraction = 0.0


class Draw(NamedTuple):
    """Random parameters of one sample.

    Args:
        angle: rotation in radians.
        zoom: magnification; above 1 the heart becomes larger.
        shift: shift of the image along (rows, columns), as fractions of S.
        flip: whether the image is mirrored.
        exponent: exponent of the image values.
        noise: standard deviation of the noise on images in [0, 1].
        start: first phase as a fraction of the cycle, 0 to below 1.
        blur: standard deviation of the Gaussian filter in pixels; 0 for none.
        bias: coefficients of the brightness field, see `bias_field`.
    """

    angle: float
    zoom: float
    shift: tuple[float, float]
    flip: bool
    exponent: float
    noise: float
    start: float
    blur: float = 0.0
    bias: tuple[float, ...] = ()

    @property
    def resamples(self) -> bool:
        """Whether the result needs interpolation between pixels."""
        return self.angle != 0 or self.zoom != 1 or any(self.shift)

    @property
    def moves(self) -> bool:
        """Whether the transform is not the identity."""
        return self.flip or self.resamples


def draw(config: AugmentConfig, rng: np.random.Generator) -> Draw:
    """Draw all parameters, also those that are off, so that each is independent of the other options.

    Args:
        config: limits of the parameters.
        rng: random generator.
    Returns:
        The parameters of one sample.
    """
    angle, zoom, row, col, exponent = rng.uniform(-1, 1, 5).tolist()
    flip, noise, start, blurred, blur = rng.random(5).tolist()
    bias = rng.uniform(-1, 1, 5)
    return Draw(
        angle=math.radians(angle * config.rotate_degrees),
        zoom=1 + zoom * config.scale,
        shift=(row * config.shift, col * config.shift),
        flip=config.flip and flip < 0.5,
        exponent=math.exp(exponent * math.log1p(config.gamma)),
        noise=noise * config.noise,
        start=start * config.roll,
        blur=blur * config.blur if blurred < 0.5 else 0.0,
        bias=tuple((config.bias * bias).tolist()),
    )


def augment(
    arrays: dict[str, np.ndarray], config: AugmentConfig, seed: int, cycle: int, geometry: Geometry
) -> dict[str, np.ndarray]:
    """Augment one sample at random within the limits of the config, even if `config.enabled` is false.

    Args:
        arrays: arrays of a `Sample` in the whole resized image. Those that change: image (D, T, 1, h, w) float32 in
            [0, 1]; mask (D, T, h, w) uint8; field (D, h, w) bool; spacing_mm (3,) float32; with a roll also has_label
            (D, T) bool, phase (T,) float32 and key_frames (2,) int64. The input arrays are not modified.
        config: limits of the parameters.
        seed: seed of the sample; equal seeds give equal results.
        cycle: number of phases of the stored cycle; the sample may hold fewer.
        geometry: position of the model grid in the resized image.
    Returns:
        New arrays with the same names, types and ranges, with h and w replaced by S; 0 and False outside the image. An
        image that becomes smaller is interpolated without a low-pass filter.
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
    else:  # no interpolation: pixels stay exactly equal
        frames, mask, field = (cut_square(part, geometry) for part in (frames, mask, field))
    frames = _intensity(frames, field, drawn, rng)
    return {**arrays, "image": frames[:, :, None], "mask": mask, "field": field, "spacing_mm": spacing}


def roll(arrays: dict[str, np.ndarray], cycle: int, first: int) -> dict[str, np.ndarray]:
    """Shift the cycle circularly to another first phase: frames, labels and key frames together.

    The first phase depends on the trigger of the scanner, not on anatomy. The positions in the cycle are therefore
    counted from `first`: `phase` of a whole rolled cycle is that of the stored cycle, with 0 for the first frame.

    Args:
        arrays: arrays of a `Sample`; image, mask and has_label (D, T, ...), phase (T,), key_frames (2,).
        cycle: number of phases of the stored cycle.
        first: phase that becomes the first, 0 to cycle - 1.
    Returns:
        New arrays with rising `phase`; the input arrays if `first` is 0 or there is only one phase.
    """
    phase, keys = arrays["phase"], arrays["key_frames"]
    if not first or len(phase) == 1:
        return arrays
    places = (np.rint(phase * cycle).astype(np.int64) - first) % cycle  # integers, so that no rounding error occurs
    order = np.argsort(places, kind="stable")
    moved = {name: arrays[name][:, order] for name in ("image", "mask", "has_label")}
    moved["phase"] = (places[order] / cycle).astype(np.float32)
    return {**arrays, **moved, "key_frames": np.where(keys < 0, keys, np.argsort(order)[keys])}


def affine(drawn: Draw, size: int, spacing_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine map from pixels p of the result to pixels of the unchanged grid, matrix @ p + offset.

    Args:
        drawn: flip, angle, zoom and shift; the centre of rotation and zoom is the centre of the grid.
        size: S.
        spacing_mm: (3,) before the zoom. The rotation is in mm: in pixels it would shear if the pixels are not square.
    Returns:
        matrix (2, 2) and offset (2,), float64, along rows and columns.
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
    """Return the position in the resized image of each pixel of the result.

    Args:
        drawn: flip, angle, zoom and shift.
        geometry: position of the model grid in the resized image.
        spacing_mm: (3,) before the zoom.
    Returns:
        (S, S, 2) float64 rows and columns.
    """
    matrix, offset = affine(drawn, geometry.size, spacing_mm)
    pixels = np.moveaxis(np.indices((geometry.size, geometry.size)), 0, -1)
    return pixels @ matrix.T + offset + np.array(geometry.offset)


def linear(images: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Sample images by linear interpolation; outside, the border pixels are repeated.

    Args:
        images: (..., h, w) float32.
        source: (S, S, 2) rows and columns.
    Returns:
        (..., S, S) float32.
    """
    height, width = images.shape[-2:]
    scale = 2 / np.maximum(np.array([height, width]) - 1, 1)  # grid_sample expects (column, row) in [-1, 1]
    grid = torch.from_numpy((source * scale - 1)[..., ::-1].astype(np.float32))[None]
    channels = torch.from_numpy(np.ascontiguousarray(images)).reshape(1, -1, height, width)
    sampled = functional.grid_sample(channels, grid, "bilinear", padding_mode="border", align_corners=True)
    return sampled.numpy().reshape(*images.shape[:-2], *source.shape[:2])


def nearest(images: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Sample images by nearest neighbour; 0 or False outside.

    Args:
        images: (..., h, w).
        source: (S, S, 2) rows and columns.
    Returns:
        (..., S, S) of the same type.
    """
    rows, columns = np.moveaxis(np.rint(source).astype(np.int64), -1, 0)
    height, width = images.shape[-2:]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return images[..., rows.clip(0, height - 1), columns.clip(0, width - 1)] * inside


def bias_field(coefficients: tuple[float, ...], size: int) -> np.ndarray:
    """Return a smooth field, (S, S) float32, whose absolute values are at most the largest of the coefficients.

    Args:
        coefficients: of row, column, row², column² and row x column, in coordinates of -1 to 1.
        size: S.
    """
    line = np.linspace(-1, 1, size)
    row, column = line[:, None], line[None, :]
    terms = (row + 0 * column, column + 0 * row, row**2 + 0 * column, column**2 + 0 * row, row * column)
    field = sum(c * term for c, term in zip(coefficients, terms, strict=True))
    largest = np.abs(field).max()
    return (field * (max(map(abs, coefficients)) / max(largest, 1e-12))).astype(np.float32)


def _intensity(frames: np.ndarray, field: np.ndarray, drawn: Draw, rng: np.random.Generator) -> np.ndarray:
    """Return frames (D, T, S, S) with changed contrast and noise; outside the field (D, S, S) they stay 0."""
    if drawn.blur:
        frames = gaussian_filter(frames, drawn.blur, axes=(2, 3)) * field[:, None]
    if any(drawn.bias):
        frames = frames * np.exp(bias_field(drawn.bias, frames.shape[-1]))
    if drawn.exponent != 1:
        frames = np.clip(frames, 0, 1) ** np.float32(drawn.exponent)
    if drawn.noise:
        noise = rng.standard_normal(frames.shape, dtype=np.float32)
        frames = frames + np.float32(drawn.noise) * noise * field[:, None]
    return np.clip(frames, 0.0, 1.0)
