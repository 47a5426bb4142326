"""A cine as one moving picture of the page: original, reconstruction and error side by side, over the cardiac cycle.

Axes: T phases, H height, W width.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from PIL import Image

from utils.report.drawing.figures import ERROR, ERROR_SCALE

MOST_BYTES = 600_000  # of one moving picture
QUALITIES = (None, 95, 85, 70)  # of WebP, tried in this order; None for no loss
CYCLE_MS = 1000  # duration of one cycle
LEAST_MS = 20  # of a frame; browsers show no shorter ones
GAP = 3  # black pixels between two images


class Cine(NamedTuple):
    """The pictures of one slice.

    Args:
        still: one phase, a PNG file.
        moving: the whole cycle, a WebP file; empty for a single phase.
        loss: how the moving picture was made smaller, in words; empty where it is stored without loss.
    """

    still: bytes
    moving: bytes
    loss: str


def draw_cine(
    original: np.ndarray,
    reconstruction: np.ndarray,
    spacing_mm: tuple[float, float],
    phase: int,
    most_bytes: int = MOST_BYTES,
) -> Cine:
    """Draw a slice with its reconstruction and their absolute error.

    The moving picture is stored without loss where that fits into `most_bytes`; else with loss, and then smaller.

    Args:
        original: (T, H, W) float in [0, 1].
        reconstruction: the same, as decoded.
        spacing_mm: along H, along W; the pictures have square pixels.
        phase: zero-based phase of the still picture.
        most_bytes: largest size of the moving picture.
    """
    frames = [_frame(x, y, spacing_mm) for x, y in zip(original, reconstruction, strict=True)]
    still = _png(frames[phase])
    if len(frames) == 1:
        return Cine(still, b"", "")
    shrunk = 1
    while True:
        for quality in QUALITIES:
            moving = _webp(frames, quality)
            if len(moving) <= most_bytes:
                return Cine(still, moving, _words(quality, shrunk))
        shrunk *= 2
        frames = [frame.reduce(2) for frame in frames]


def _frame(original: np.ndarray, reconstruction: np.ndarray, spacing_mm: tuple[float, float]) -> Image.Image:
    """Original, reconstruction and error of one phase, from left to right."""
    error = colormaps[ERROR["cmap"]](np.abs(original - reconstruction) / ERROR_SCALE, bytes=True)[..., :3]
    grey = [np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8) for image in (original, reconstruction)]
    parts = [*(np.repeat(image[..., None], 3, axis=2) for image in grey), error]
    height, width = original.shape
    size = [round(n * mm / min(spacing_mm)) for n, mm in zip((width, height), spacing_mm[::-1], strict=True)]
    sheet = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1]))
    for place, part in enumerate(parts):
        image = Image.fromarray(part).resize((size[0], size[1]), Image.Resampling.NEAREST)
        sheet.paste(image, (place * (size[0] + GAP), 0))
    return sheet


def _png(frame: Image.Image) -> bytes:
    buffer = io.BytesIO()
    frame.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _webp(frames: list[Image.Image], quality: int | None) -> bytes:
    buffer, how = io.BytesIO(), {"lossless": True} if quality is None else {"quality": quality}
    duration = max(LEAST_MS, round(CYCLE_MS / len(frames)))
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=duration, loop=0, **how)
    return buffer.getvalue()


def _words(quality: int | None, shrunk: int) -> str:
    parts = [] if quality is None else [f"WebP with loss, quality {quality}"]
    return ", ".join([*parts, *([f"{shrunk} times fewer pixels a side"] if shrunk > 1 else [])])
