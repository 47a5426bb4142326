"""JPEG 2000 by OpenJPEG, through imagecodecs: `pip install imagecodecs`.

Values are quantized to 10 bits (or 8), gray. Each frame is one codestream (.j2k, without the boxes of a .jp2 file) of
the irreversible 9/7 wavelet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from data.codecs._common import StillCodec, require
from utils.config.ranges import Range

LEAST_SIDE = 32  # OpenJPEG misses the wanted PSNR of smaller frames by far; they are padded


@dataclass
class Options:
    """Options of the codec.

    Args:
        ladder: wanted PSNR of a frame in dB, from the most bytes to the fewest.
        bits: of a pixel.
    """

    ladder: list[Annotated[float, Range(1, 100)]] = field(default_factory=lambda: [42, 39, 36, 33, 30, 27, 24])
    bits: Literal[8, 10] = 10


def build(options: Options) -> StillCodec:
    """The codec with these options."""
    imagecodecs, bits = require("jpeg2000", "imagecodecs"), options.bits

    def write(frame: np.ndarray, decibel: float) -> bytes:
        padding = [(0, max(0, LEAST_SIDE - side)) for side in frame.shape]
        return imagecodecs.jpeg2k_encode(
            np.pad(frame, padding, "edge"), level=decibel, codecformat="J2K", bitspersample=bits, reversible=False,
            numthreads=1,
        )  # fmt: skip

    return StillCodec(
        title=f"JPEG 2000, {bits} bits",
        quality="wanted dB",
        ladder=tuple(options.ladder),
        bits=bits,
        write=write,
        read=lambda data: imagecodecs.jpeg2k_decode(data, numthreads=1),
    )
