"""Image metrics of one patient's reconstruction by a model, a baseline or a codec, on native voxels inside the field.

Axes: H height, W width, h and w height and width of the field, S side of the model grid, D slices, T phases.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from data import preprocess
from data.case import CineCase
from data.window import normalize
from utils.metrics import (
    bounding_box,
    finite_mean,
    flicker,
    frame_scores,
    heart_region,
    nii_gz_bytes,
    psnr,
    rates,
    ssim,
    true_depth_bits,
)


class Reference(NamedTuple):
    """The original of one patient, on the native grid and on the model grid.

    Args:
        case: the native cine.
        prepared: the cine on the model grid.
        box: rows and columns of the native image inside the model's field.
        original: (D, T, h, w) float32 in [0, 1], the native pixels inside the box.
        heart: (D, h, w) bool, the heart region inside the box; None without masks.
        heart_in_field: fraction of the heart region inside the box, 0 to 1; None without masks.
    """

    case: CineCase
    prepared: preprocess.Prepared
    box: tuple[slice, slice]
    original: np.ndarray
    heart: np.ndarray | None
    heart_in_field: float | None


def open_reference(case: CineCase, size: int, mode: str) -> Reference:
    """Bring a case to the model grid and crop the native voxels to the field.

    Args:
        case: the native cine.
        size: S.
        mode: `crop` or `fit`, see data/preprocess.py.

    Returns:
        The original for all metrics.
    """
    prepared = preprocess.prepare(case, size, mode)
    box = bounding_box(preprocess.native_field(prepared.geometry))
    original = normalize(case.real(box).transpose(2, 3, 0, 1), prepared.window)
    region = heart_region([case.masks[t] for t in (case.ed, case.es) if t in case.masks], case.spacing_mm)
    if region is None or not region.any():
        return Reference(case, prepared, box, original, None, None)
    heart = region[box].transpose(2, 0, 1)
    return Reference(case, prepared, box, original, heart, float(heart.sum() / region.sum()))


def to_frames(grid: np.ndarray) -> np.ndarray:
    """Move the axes (S, S, D, T) to (D, T, S, S)."""
    return grid.transpose(2, 3, 0, 1)


def to_native(reference: Reference, grid: np.ndarray) -> np.ndarray:
    """Bring a reconstruction back to the native grid.

    Args:
        reference: the original of the patient.
        grid: (S, S, D, T) reconstruction.

    Returns:
        (D, T, h, w) native pixels inside the model's field.
    """
    return preprocess.invert(to_frames(grid), reference.prepared.geometry)[..., reference.box[0], reference.box[1]]


def score_native(reference: Reference, native: np.ndarray) -> dict[str, Any]:
    """Compute the image metrics of one patient's reconstruction on the native grid.

    Args:
        reference: the original of the patient.
        native: (D, T, h, w) reconstruction in [0, 1], native pixels inside the field.

    Returns:
        PSNR in dB, SSIM and flicker, and the PSNR of each phase (`curve`); None for the heart without masks.
    """
    frame_psnr = frame_scores(psnr, reference.original, native)
    heart = None if reference.heart is None else frame_scores(psnr, reference.original, native, reference.heart)
    return {
        "psnr": finite_mean(frame_psnr.flat),
        "ssim": finite_mean(frame_scores(ssim, reference.original, native).flat),
        "psnr_heart": None if heart is None else finite_mean(heart.flat),
        "heart_in_field": reference.heart_in_field,
        "flicker": flicker(native),
        "flicker_original": flicker(reference.original),
        "curve": [finite_mean(column) for column in frame_psnr.T],
    }


def score_grid(reference: Reference, grid: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Compute all image metrics of one patient's reconstruction by a model.

    Args:
        reference: the original of the patient.
        grid: (S, S, D, T) reconstruction in [0, 1].

    Returns:
        The reconstruction as native pixels (D, T, h, w) inside the field, and the metrics: those of `score_native`, and
        the PSNR in dB on the model grid, without padding.
    """
    native, field = to_native(reference, grid), preprocess.model_field(reference.prepared.geometry)
    model_grid = frame_scores(psnr, to_frames(reference.prepared.image[0]), to_frames(grid), field)
    return native, {**score_native(reference, native), "psnr_model_grid": finite_mean(model_grid.flat)}


def ceiling(reference: Reference) -> float | None:
    """Return the PSNR in dB of resampling to the model grid and back without a model; None if this is lossless."""
    value = finite_mean(frame_scores(psnr, reference.original, to_native(reference, reference.prepared.image[0])).flat)
    return value if math.isfinite(value) else None


def native_cost(reference: Reference, size: int) -> dict[str, float]:
    """Compute bytes per frame and the ratio against int16 of a patient; faster than `cost`, which writes a .nii.gz.

    Args:
        reference: the original of the patient.
        size: bytes of the compressed field.

    Returns:
        bytes_per_frame and ratio_int16.
    """
    depth, phases = reference.original.shape[:2]
    rate = rates(size * 8, depth * phases, reference.original.size, depth_bits=16, gz_bytes=0)
    return {"bytes_per_frame": rate["bits_per_frame"] / 8, "ratio_int16": rate["ratio_int16"]}


def cost(reference: Reference, size: int) -> dict[str, float]:
    """Compute bits and compression ratios of a patient.

    Args:
        reference: the original of the patient.
        size: bytes of the compressed file.

    Returns:
        Bits, bits per frame and ratios, see `utils.metrics.rates`.
    """
    field, frames = reference.case.cine[reference.box], math.prod(reference.case.cine.shape[2:])
    gz_bytes = nii_gz_bytes(field, reference.case.affine)
    return rates(size * 8, frames, field.size, true_depth_bits(reference.case.cine), gz_bytes)
