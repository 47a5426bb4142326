"""From native voxels to the model grid and back: window, heart centre, crop or fit. Each step can be inverted.

    real values ─ normalize ─► [0, 1] ─ apply ─► (..., S, S) model grid ─ invert ─► (..., H, W) native grid

All functions work on real values (stored * slope + intercept, see data/window.py), so that the data type of a file does
not change window, crop or tokens.

Both geometries are one operation: resize the native (H, W) to `resized_hw`, then cut out a square of S x S pixels whose
top left corner is at `offset`. `crop` does not resize; `fit` places the square around the whole image.

Axes: H height, W width, S side of the model grid, D slices, T phases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from data.case import CaseRefused, CineCase
from data.window import bounds, normalize, real_values, window_of

MODES = ("crop", "fit")
HEART_RADIUS = 30.0  # approximate, in pixels of 1.2 to 1.7 mm in most cines


def window_of_case(case: CineCase) -> tuple[float, float]:
    """The window of a case, see `window_of`; a case with an empty window is refused."""
    try:
        return window_of(case.cine, case.slope, case.intercept)
    except ValueError as error:
        raise CaseRefused("empty_window", case.patient, str(error)) from error


def heart_center(cine: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> tuple[float, float]:
    """Position of the heart: centroid of the temporal variation around its strongest maximum.

    Vessels, breathing and scanner drift cause variation too, mainly near the border. Therefore the weakest 80 % of the
    map are set to zero. Starting from the strongest maximum near the image centre, the centroid is computed several
    times, each time weighted by a Gaussian around the previous one.

    Args:
        cine: (H, W, D, T) stored values; with two phases their difference is the variation.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
    Returns:
        (row, col) in native pixels, rounded to 0.01; the image centre if nothing moves.
    """
    variation = _temporal_variation(cine, slope, intercept)
    height, width = variation.shape
    rows, cols = np.ogrid[:height, :width]
    row, col = (height - 1) / 2, (width - 1) / 2
    moving = np.maximum(variation - np.percentile(variation, 80), 0)
    if moving.sum() > 0:
        aim = np.exp(-(((rows - row) / (0.3 * height)) ** 2 + ((cols - col) / (0.3 * width)) ** 2) / 2)
        blob = gaussian_filter(moving, HEART_RADIUS / 2) * aim
        row, col = (float(i) for i in np.unravel_index(int(blob.argmax()), blob.shape))
        for _ in range(10):
            weight = moving * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * HEART_RADIUS**2))
            row, col = float((weight * rows).sum() / weight.sum()), float((weight * cols).sum() / weight.sum())
    return round(row, 2), round(col, 2)


class Placement(NamedTuple):
    """Intensity window in real values, and (row, col) of the heart in native pixels."""

    window: tuple[float, float]
    center: tuple[float, float]


def place(case: CineCase) -> Placement:
    """Window and heart position of a case; a case with an empty window is refused."""
    return Placement(window_of_case(case), heart_center(case.cine, case.slope, case.intercept))


def _temporal_variation(cine: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """(H, W) standard deviation over the phases of a (H, W, D, T) cine, smoothed, summed over the slices."""
    low, high = (np.float32(value) for value in bounds(cine, slope, intercept))
    span = max(high - low, np.finfo(np.float32).tiny)
    variation = np.zeros(cine.shape[:2], np.float32)
    for z in range(cine.shape[2]):  # slice by slice, to save memory
        frames = (real_values(cine[:, :, z], slope, intercept).astype(np.float32) - low) / span
        frames = np.minimum(frames, np.float32(1))  # limits the influence of a bright vessel
        variation += gaussian_filter(frames, (2, 2, 0)).std(axis=-1)
    return gaussian_filter(variation, 2)


@dataclass(frozen=True)
class Geometry:
    """Transform of one volume to the model grid; it can be inverted.

    Args:
        mode: `crop` (native pixels, no resampling) or `fit` (the whole image, reduced if it is too large).
        native_hw: (H, W) of the native image.
        size: S, side of the model grid.
        offset: (row, col) of the square's top left corner in the resized image; negative if the square is padded.
    """

    mode: str
    native_hw: tuple[int, int]
    size: int
    offset: tuple[int, int]

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"geometry mode is {self.mode!r}, expected one of {', '.join(MODES)}")
        if min(*self.native_hw, self.size) < 1:
            raise ValueError(f"geometry has native_hw {self.native_hw} and size {self.size}, expected positive sizes")

    @property
    def resized_hw(self) -> tuple[int, int]:
        """(h, w) after resizing, in whole numbers, so that it is the same on every machine."""
        longest = max(self.native_hw)
        if self.mode == "crop" or longest <= self.size:
            return self.native_hw
        height, width = (max(1, (2 * n * self.size + longest) // (2 * longest)) for n in self.native_hw)
        return height, width

    @property
    def scale(self) -> float:
        """Model pixels per native pixel: min(1, S / max(H, W)) for `fit`, 1 for `crop`."""
        return 1.0 if self.mode == "crop" else min(1.0, self.size / max(self.native_hw))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Geometry:
        """The geometry that `to_dict` described."""
        (height, width), (row, col) = data["native_hw"], data["offset"]
        return cls(str(data["mode"]), (int(height), int(width)), int(data["size"]), (int(row), int(col)))


def plan(native_hw: tuple[int, int], size: int, mode: str, center: tuple[float, float] | None = None) -> Geometry:
    """Place the S x S square.

    Args:
        native_hw: (H, W) of the native image.
        size: S, side of the model grid.
        mode: `crop` or `fit`.
        center: (row, col) of a crop in native pixels, the image centre when None; moved so that the square lies
            inside the image if the image is large enough.
    """
    height, width = int(native_hw[0]), int(native_hw[1])
    start = Geometry(mode, (height, width), int(size), (0, 0))
    if mode == "fit" or center is None:
        center = ((start.resized_hw[0] - 1) / 2, (start.resized_hw[1] - 1) / 2)
    offset = tuple(_window_start(n, start.size, float(c)) for n, c in zip(start.resized_hw, center, strict=True))
    return Geometry(mode, (height, width), start.size, (offset[0], offset[1]))


def _window_start(length: int, size: int, center: float) -> int:
    if length <= size:
        return -((size - length) // 2)
    return int(np.clip(np.floor(center - (size - 1) / 2 + 0.5), 0, length - size))


def apply(images: np.ndarray, geometry: Geometry, order: int = 1) -> np.ndarray:
    """Transform images to the model grid.

    Args:
        images: (..., H, W); float32 result for order 1, the same dtype for order 0 and for a crop.
        geometry: from `plan`.
        order: 1 antialiased linear, 0 nearest.
    Returns:
        (..., S, S), zero in the padding.
    """
    if images.shape[-2:] != geometry.native_hw:
        raise ValueError(f"images are {images.shape[-2:]} in plane, but the geometry is for {geometry.native_hw}")
    return cut_square(resize(images, geometry.resized_hw, order), geometry)


def apply_mask(masks: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Transform label maps (..., H, W) to the model grid (..., S, S) by nearest neighbour."""
    return apply(masks, geometry, order=0)


def resized(frames: np.ndarray, window: tuple[float, float], geometry: Geometry) -> np.ndarray:
    """Real values (..., H, W) -> float32 in [0, 1], all of the resized image (..., h, w)."""
    images = resize(normalize(frames, window), geometry.resized_hw, 1)
    return np.clip(images, 0.0, 1.0, out=images)  # the rows of the filter sum to 1 up to rounding


def to_grid(frames: np.ndarray, window: tuple[float, float], geometry: Geometry) -> np.ndarray:
    """Real values (..., H, W) -> float32 in [0, 1] on the model grid (..., S, S), 0 in the padding."""
    if geometry.resized_hw != geometry.native_hw:
        return cut_square(resized(frames, window, geometry), geometry)
    images = normalize(apply(frames, geometry), window)  # no resampling: cutting first is faster
    if window[0] != 0:
        images[..., ~model_field(geometry)] = 0
    return images


def invert(images: np.ndarray, geometry: Geometry, order: int = 1) -> np.ndarray:
    """Transform images (..., S, S) back to the native grid (..., H, W), zero outside the model's field."""
    if images.shape[-2:] != (geometry.size, geometry.size):
        raise ValueError(f"images are {images.shape[-2:]} in plane, but the model grid is {geometry.size} a side")
    return resize(cut_square(images, geometry, inverse=True), geometry.native_hw, order)


def native_field(geometry: Geometry) -> np.ndarray:
    """(H, W) bool: True for native pixels inside the model's field."""
    return invert(np.ones((geometry.size, geometry.size), np.uint8), geometry, order=0).astype(bool)


def model_field(geometry: Geometry) -> np.ndarray:
    """(S, S) bool: True for pixels that correspond to a native pixel, False for padding."""
    return cut_square(np.ones(geometry.resized_hw, bool), geometry)


def model_spacing(spacing_mm: tuple[float, float, float], geometry: Geometry) -> tuple[float, float, float]:
    """Spacing in mm along H, W, D on the model grid, from the native spacing."""
    (height, width), (new_height, new_width) = geometry.native_hw, geometry.resized_hw
    return spacing_mm[0] * height / new_height, spacing_mm[1] * width / new_width, spacing_mm[2]


def cut_square(images: np.ndarray, geometry: Geometry, inverse: bool = False) -> np.ndarray:
    """Cut the square out of resized images (..., h, w) -> (..., S, S), or put it back."""
    inside, window = [], []
    for length, start in zip(geometry.resized_hw, geometry.offset, strict=True):
        first, last = max(start, 0), min(start + geometry.size, length)
        inside.append(slice(first, last))
        window.append(slice(first - start, last - start))
    source, target = (window, inside) if inverse else (inside, window)
    shape = geometry.resized_hw if inverse else (geometry.size, geometry.size)
    result = np.zeros((*images.shape[:-2], *shape), images.dtype)
    result[..., target[0], target[1]] = images[..., source[0], source[1]]
    return result


def resize(images: np.ndarray, hw: tuple[int, int], order: int) -> np.ndarray:
    """Resize (..., H, W) to (..., h, w): nearest for order 0, else linear, antialiased if the size is reduced."""
    if images.shape[-2:] == hw:
        return images
    if order == 0:
        rows, cols = (((2 * np.arange(n) + 1) * m) // (2 * n) for n, m in zip(hw, images.shape[-2:], strict=True))
        return images[..., rows[:, None], cols]
    vertical, horizontal = (_linear_filter(m, n) for n, m in zip(hw, images.shape[-2:], strict=True))
    return vertical @ images.astype(np.float32) @ horizontal.T


@lru_cache(maxsize=64)
def _linear_filter(length: int, new_length: int) -> np.ndarray:
    """(new_length, length) matrix of triangle weights, as wide as a new pixel if the size is reduced; rows sum to 1."""
    scale = length / new_length
    centers = (np.arange(new_length) + 0.5) * scale - 0.5
    distance = np.abs(centers[:, None] - np.arange(length)) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Prepared:
    """A case on the model grid.

    Args:
        image: (1, S, S, D, T) float32 in [0, 1].
        window: (low, high) in real values.
        geometry: transform from the native grid.
        spacing_mm: along H, W, D on the model grid.
    """

    image: np.ndarray
    window: tuple[float, float]
    geometry: Geometry
    spacing_mm: tuple[float, float, float]


def prepare(case: CineCase, size: int, mode: str) -> Prepared:
    """Transform a whole case to the model grid, as the loader does for each slice."""
    window = window_of_case(case)
    center = heart_center(case.cine, case.slope, case.intercept) if mode == "crop" else None
    geometry = plan(case.cine.shape[:2], size, mode, center)
    frames = case.real().transpose(2, 3, 0, 1)  # (D, T, H, W)
    image = to_grid(frames, window, geometry).transpose(2, 3, 0, 1)  # (S, S, D, T)
    return Prepared(np.ascontiguousarray(image)[None], window, geometry, model_spacing(case.spacing_mm, geometry))
