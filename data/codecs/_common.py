"""What all codecs share: their interface, the quantization of values, and the error for a missing package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import numpy as np


class Codec(Protocol):
    """A codec of one slice's cine, as `build(options)` of each file of this folder gives it.

    Attributes:
        title: name, effort and bit depth, for a report.
        quality: meaning of a setting, e.g. CRF.
        ladder: settings from the most bytes to the fewest.
    """

    @property
    def title(self) -> str: ...

    @property
    def quality(self) -> str: ...

    @property
    def ladder(self) -> Sequence[float]: ...

    def encode(self, cine: np.ndarray, setting: float) -> list[bytes]:
        """Compress a cine.

        Args:
            cine: (T, h, w) float32 in [0, 1].
            setting: one of `ladder`, or any other value of the same range.

        Returns:
            The packets of a video or the files of images, as the encoder writes them. Their sizes are the size of the
            compressed cine; a container, which would add bytes, is not used.
        """

    def decode(self, parts: Sequence[bytes], hw: tuple[int, int]) -> np.ndarray:
        """Decompress the result of `encode`.

        Args:
            parts: packets or files; nothing else of the cine is known.
            hw: (h, w) of the cine; its few bytes are not counted.

        Returns:
            (T, h, w) float32 in [0, 1].
        """


def require(codec: str, package: str) -> ModuleType:
    """Import the optional package of a codec.

    Args:
        codec: name of the codec, for the error.
        package: name of the package, on PyPI and in Python.

    Raises:
        ValueError: the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        message = f"codec {codec} needs a package that is not installed: pip install {package}, or leave this codec out"
        raise ValueError(message) from None


def to_levels(cine: np.ndarray, bits: int) -> np.ndarray:
    """Quantize values in [0, 1] to the nearest of 2^bits levels, 0 to 2^bits - 1; uint8 up to 8 bits, else uint16."""
    levels = np.round(np.clip(cine, 0.0, 1.0) * np.float32((1 << bits) - 1))
    return levels.astype(np.uint8 if bits <= 8 else np.uint16)


def from_levels(levels: np.ndarray, bits: int) -> np.ndarray:
    """The values in [0, 1] of levels, float32."""
    return np.clip(levels.astype(np.float32) / np.float32((1 << bits) - 1), 0.0, 1.0)


@dataclass(frozen=True)
class StillCodec:
    """A codec that writes one file for each frame.

    Args:
        title: see `Codec`.
        quality: see `Codec`.
        ladder: see `Codec`.
        bits: of a pixel, see `to_levels`.
        write: (frame (h, w) of levels, setting) -> file.
        read: file -> frame (h, w) of levels, or a larger one that begins with it.
    """

    title: str
    quality: str
    ladder: tuple[float, ...]
    bits: int
    write: Callable[[np.ndarray, float], bytes]
    read: Callable[[bytes], np.ndarray]

    def encode(self, cine: np.ndarray, setting: float) -> list[bytes]:
        """See `Codec`."""
        return [bytes(self.write(frame, setting)) for frame in to_levels(cine, self.bits)]

    def decode(self, parts: Sequence[bytes], hw: tuple[int, int]) -> np.ndarray:
        """See `Codec`."""
        rows, columns = hw
        return from_levels(np.stack([self.read(part)[:rows, :columns] for part in parts]), self.bits)
