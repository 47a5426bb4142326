"""Checks of images and masks at the input of a model."""

import torch
from torch import Tensor


def check_images(x: Tensor, channels: int, image_size: int) -> None:
    """Check that x is a batch of windowed images of the size of the model.

    Args:
        x: (B, C, H, W, D, T) or (B, C, H, W), floating point in [0, 1].
        channels: C expected.
        image_size: H and W expected, in pixels.

    Raises:
        ValueError: for another type, shape, size, value range, or NaN.
    """
    expected = f"(B, {channels}, {image_size}, {image_size}, D, T) or (B, {channels}, {image_size}, {image_size})"
    if not x.is_floating_point():
        raise ValueError(f"images are {x.dtype}: expected floating point in [0, 1]; see data/preprocess.py")
    if x.ndim not in (4, 6) or tuple(x.shape[1:4]) != (channels, image_size, image_size):
        raise ValueError(
            f"images of shape {tuple(x.shape)}: expected {expected}; bring files to this grid with data/preprocess.py"
        )
    _check_values(x, expected)


def check_cine(x: Tensor) -> None:
    """Check that x is a batch of windowed cines of one channel and any size.

    Args:
        x: (B, 1, H, W, D, T), floating point in [0, 1].

    Raises:
        ValueError: for another type, shape, value range, or NaN.
    """
    expected = "(B, 1, H, W, D, T)"
    if not x.is_floating_point() or x.ndim != 6 or x.shape[1] != 1:
        raise ValueError(
            f"cines of shape {tuple(x.shape)} and {x.dtype}: expected {expected}, floating point in [0, 1]"
        )
    _check_values(x, expected)


def _check_values(x: Tensor, expected: str) -> None:
    """Raise a ValueError for no values, NaN, infinity or values outside [0, 1]."""
    if not x.numel():
        raise ValueError(f"images of shape {tuple(x.shape)} are empty: expected {expected}")
    low, high = (float(v) for v in torch.aminmax(x))
    if not (low == low and high == high and abs(low) != float("inf") and abs(high) != float("inf")):
        raise ValueError("images hold NaN or infinite values: expected finite values in [0, 1]; repair the scan first")
    if low < 0 or high > 1:
        raise ValueError(
            f"images range from {low:.4g} to {high:.4g}: expected [0, 1]; window the volume with data/preprocess.py"
        )


def check_mask(mask: Tensor | None, x: Tensor, leaks: bool) -> None:
    """Check that the model uses ground truth and that the mask has the size of the images.

    Args:
        mask: (B, H, W, D, T) labels, or None.
        x: (B, C, H, W, D, T) images.
        leaks: whether the model encodes ground truth.

    Raises:
        ValueError: for a mask that is missing, not expected or of another size.
    """
    if mask is not None and (not leaks or x.ndim == 4 or mask.shape != (len(x), *x.shape[2:])):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)}: only a model of conditioning mask takes one, (B, H, W, D, T) "
            "of the images' size; leave it out"
        )
