"""Image quality and rate: one function for each reported figure, the same for models, baselines and codecs.

Images are float with data range 1 after the volume's window; values are clamped to [0, 1] before they are compared.
Axes: H height, W width, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.metrics import structural_similarity

SSIM_SIGMA = 1.5
SSIM_WINDOW = 11  # the side of scikit-image's Gaussian window at sigma 1.5 (truncated at 3.5 sigma)
HEART_MARGIN_MM = 10.0
GZIP_LEVEL = 6  # gzip's default; nibabel's level 1 writes larger files, which would give a better ratio

Metric = Callable[..., float]


def psnr(x: np.ndarray, y: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio of two frames, in dB.

    Args:
        x: (H, W) float, clamped to [0, 1].
        y: (H, W) float, clamped to [0, 1].
        mask: (H, W) bool, the scored pixels; all of them when None.

    Returns:
        dB at a peak of 1; inf for equal frames, NaN for an empty mask (not applicable).

    Raises:
        ValueError: shapes differ or a value is not finite.
    """
    x, y = _clamped(x, y, mask)
    error = (x - y) ** 2
    error = error if mask is None else error[mask]
    if error.size == 0:
        return math.nan
    mse = float(error.mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)


def ssim(x: np.ndarray, y: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Structural similarity of two frames, by scikit-image with the arguments of the original paper.

    The frames are first cut to the bounding box of the mask, so that pixels outside the box have no influence.

    Args:
        x: (H, W) float, clamped to [0, 1].
        y: (H, W) float, clamped to [0, 1].
        mask: (H, W) bool, pixels over which the map is averaged; all when None.

    Returns:
        The mean of the SSIM map without its rim of 5 pixels, where the window reaches beyond the frame, as scikit-image
        returns it. At most 1; NaN where no pixel of the mask is left (not applicable).

    Raises:
        ValueError: shapes differ, a value is not finite, or the scored field is smaller than the window.

    Source: Wang et al., IEEE TIP 13(4), 2004: Gaussian window, sigma 1.5, K1 0.01, K2 0.03, population covariance.
    """
    x, y = _clamped(x, y, mask)
    if mask is not None:
        if not mask.any():
            return math.nan
        box = bounding_box(mask)
        x, y, mask = x[box], y[box], mask[box]
    if min(x.shape) < SSIM_WINDOW:
        raise ValueError(f"ssim needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, but the field is {x.shape}")
    mean, similarity = structural_similarity(
        x, y, data_range=1.0, gaussian_weights=True, sigma=SSIM_SIGMA, use_sample_covariance=False, full=True
    )
    if mask is None or mask.all():
        return float(mean)
    rim = SSIM_WINDOW // 2
    inner = (slice(rim, -rim), slice(rim, -rim))
    return float(similarity[inner][mask[inner]].mean()) if mask[inner].any() else math.nan


def flicker(cine: np.ndarray) -> float:
    """Flicker of a cine: the mean absolute second difference over the cycle, |x_(t+1) - 2 x_t + x_(t-1)|.

    It is 0 for a constant image and for uniform change, and large for noise and jumps. The last phase is the neighbour
    of the first.

    Args:
        cine: (D, T, H, W) float, clamped to [0, 1].

    Returns:
        In units of the window; NaN for fewer than three phases (not applicable).
    """
    if cine.shape[1] < 3:
        return math.nan
    cine = np.clip(cine, 0.0, 1.0)
    second = [np.abs(np.roll(x, -1, 0) - 2 * x + np.roll(x, 1, 0)).mean() for x in cine]  # slice by slice: memory
    return float(np.mean(second))


def high_frequency_ratio(original: np.ndarray, reconstruction: np.ndarray) -> float:
    """Energy of detail finer than 4 pixels, relative to the original: 1 is equal energy, 0 is no detail.

    Args:
        original: (D, T, H, W) float in [0, 1].
        reconstruction: the same shape, clamped to [0, 1].

    Returns:
        Ratio of spectral energy above 0.25 cycles a pixel (radial); NaN if the original has none.
    """
    rows, columns = (np.fft.fftfreq(n) for n in original.shape[-2:])
    fine = np.hypot(rows[:, None], columns[None]) > 0.25

    def energy(cine: np.ndarray) -> float:
        frames = (np.fft.fft2(frame)[fine] for stack in cine for frame in stack)  # frame by frame: memory
        return float(sum(np.square(np.abs(part)).sum() for part in frames))

    whole = energy(original)
    return energy(np.clip(reconstruction, 0.0, 1.0)) / whole if whole > 0 else math.nan


def bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Smallest rectangle of rows and columns around the True pixels of a mask.

    Args:
        mask: (H, W) bool with at least one True.

    Returns:
        (rows, columns) as slices.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("the mask has no True pixel, expected at least one")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def frame_scores(metric: Metric, x: np.ndarray, y: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """A metric of each frame of a cine.

    Args:
        metric: `psnr` or `ssim`.
        x: (D, T, H, W) float.
        y: (D, T, H, W) float.
        mask: (H, W) or one a slice (D, H, W) bool, the scored pixels; all when None.

    Returns:
        (D, T) float64.

    Raises:
        ValueError: shapes differ, or what the metric raises.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"the cines have shapes {x.shape} and {y.shape}, expected equal shapes (D, T, H, W)")
    slices, phases = x.shape[:2]
    scores = np.empty((slices, phases))
    for z in range(slices):
        scored = mask if mask is None or mask.ndim == 2 else mask[z]
        scores[z] = [metric(x[z, t], y[z, t], scored) for t in range(phases)]
    return scores


def finite_mean(values: Iterable[float | None]) -> float:
    """Mean of frame or patient scores without scores that are not applicable (None, NaN) or infinite (exact frames).

    Exact frames are excluded because one black frame that is decoded exactly would make the mean infinite.

    Args:
        values: scores, e.g. dB.

    Returns:
        The mean of the finite values; inf if all applicable values are inf, NaN if none is applicable.
    """
    applicable = [float(v) for v in values if v is not None and not math.isnan(v)]
    finite = [v for v in applicable if math.isfinite(v)]
    if finite:
        return float(np.mean(finite))
    return math.inf if applicable else math.nan


def cohort(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Any]:
    """Mean and spread over patients, each patient counting once.

    Args:
        rows: one mapping a patient; a value that is absent, None or NaN does not apply to the patient.
        keys: the figures to summarise.

    Returns:
        {"mean": {key: value}, "std": {key: value}, "n": patients, "n_of": {key: patients with a value}}; std is the
        sample standard deviation, NaN below two patients.
    """
    columns = {key: [row.get(key) for row in rows] for key in keys}
    finite = {key: [v for v in column if v is not None and math.isfinite(v)] for key, column in columns.items()}
    return {
        "mean": {key: finite_mean(column) for key, column in columns.items()},
        "std": {key: float(np.std(v, ddof=1)) if len(v) > 1 else math.nan for key, v in finite.items()},
        "n": len(rows),
        "n_of": {key: sum(v is not None and not math.isnan(v) for v in column) for key, column in columns.items()},
    }


def heart_region(
    masks: Iterable[np.ndarray], spacing_mm: Sequence[float], margin_mm: float = HEART_MARGIN_MM
) -> np.ndarray | None:
    """Union of the heart masks of ED and ES, dilated within each slice.

    Args:
        masks: each (H, W, D), nonzero on the heart.
        spacing_mm: (along H, along W, ...) in mm.
        margin_mm: how far the region reaches beyond the masks.

    Returns:
        (H, W, D) bool; a slice without any label stays empty. None without masks.
    """
    labelled = [np.asarray(mask) > 0 for mask in masks]
    if not labelled:
        return None
    heart = np.logical_or.reduce(labelled)
    region = np.zeros_like(heart)
    for z in np.flatnonzero(heart.any(axis=(0, 1))):
        region[..., z] = distance_transform_edt(~heart[..., z], sampling=tuple(spacing_mm[:2])) <= margin_mm
    return region


def true_depth_bits(cine: np.ndarray) -> int:
    """Bits a voxel that the stored values need.

    Args:
        cine: native values, any shape; a float array counts its own width.

    Returns:
        The bit length of the largest value (of the range, where values are negative), at least 1.
    """
    if cine.dtype.kind == "f":
        return cine.dtype.itemsize * 8
    low, high = int(cine.min()), int(cine.max())
    return max(1, (high - min(low, 0)).bit_length())


def nii_gz_bytes(cine: np.ndarray, affine: np.ndarray) -> int:
    """Size of the values as a .nii.gz file, written in memory.

    Args:
        cine: (H, W, D, T) native values: int16, or the next type that holds them.
        affine: (4, 4) voxel -> world.

    Returns:
        Bytes of the NIfTI after gzip at its default level.
    """
    if cine.dtype.kind != "f":
        fitting = (np.int16, np.uint16, np.int32)
        low, high = int(cine.min()), int(cine.max())
        cine = cine.astype(next((t for t in fitting if np.iinfo(t).min <= low and high <= np.iinfo(t).max), np.float32))
    image = nib.Nifti1Image(cine, affine)  # type: ignore[no-untyped-call]
    return len(gzip.compress(image.to_bytes(), GZIP_LEVEL, mtime=0))


def rates(bits: int, frames: int, voxels: int, depth_bits: int, gz_bytes: int) -> dict[str, float]:
    """Bits and compression ratios of a compressed file.

    Args:
        bits: of the whole file as written: header, indices, tokens, anatomy, checksum.
        frames: D * T.
        voxels: native voxels inside the coded field, over all frames.
        depth_bits: bits a voxel that the values really need.
        gz_bytes: the same voxels as a .nii.gz file.

    Returns:
        bits, bits_per_frame, and the ratios against int16, the true depth and the .nii.gz.
    """
    if bits <= 0 or frames <= 0:
        raise ValueError(f"found {bits} bits and {frames} frames, expected more than 0 of both")
    return {
        "bits": float(bits),
        "bits_per_frame": bits / frames,
        "ratio_int16": voxels * 16 / bits,
        "ratio_true_depth": voxels * depth_bits / bits,
        "ratio_nii_gz": gz_bytes * 8 / bits,
    }


def _clamped(x: np.ndarray, y: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Both frames as float64 in [0, 1], with checked shapes and values."""
    if x.shape != y.shape or x.ndim != 2 or (mask is not None and mask.shape != x.shape):
        mask_shape = None if mask is None else mask.shape
        raise ValueError(f"frames have shapes {x.shape} and {y.shape}, mask {mask_shape}; expected one shape (H, W)")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a frame holds NaN or infinite values and cannot be scored")
    return np.clip(x, 0, 1), np.clip(y, 0, 1)
