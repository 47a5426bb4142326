"""JPEG XL by libjxl, through imagecodecs: `pip install imagecodecs`.

Values are quantized to 10 bits (or 8), gray. Each frame is one codestream, without a container. The encoder aims at
visual distance, not at PSNR. From a distance of 20 on it halves the size of an image, and PSNR can rise again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from data.codecs._common import StillCodec, require
from utils.config.ranges import Range


@dataclass
class Options:
    """Options of the codec.

    Args:
        ladder: visual distances (Butteraugli), from the most bytes to the fewest.
        effort: 1 is the fastest, 9 the slowest and best.
        bits: of a pixel.
    """

    ladder: list[Annotated[float, Range(above=0, most=25)]] = field(
        default_factory=lambda: [0.5, 1, 2, 3, 5, 8, 12, 16]
    )
    effort: Annotated[int, Range(1, 9)] = 7
    bits: Literal[8, 10] = 10


def build(options: Options) -> StillCodec:
    """The codec with these options."""
    imagecodecs, bits, effort = require("jpegxl", "imagecodecs"), options.bits, options.effort
    return StillCodec(
        title=f"JPEG XL, effort {effort}, {bits} bits",
        quality="distance",
        ladder=tuple(options.ladder),
        bits=bits,
        write=lambda frame, distance: imagecodecs.jpegxl_encode(
            frame, distance=distance, effort=effort, bitspersample=bits, usecontainer=False, numthreads=1
        ),
        read=lambda data: imagecodecs.jpegxl_decode(data, numthreads=1),
    )
