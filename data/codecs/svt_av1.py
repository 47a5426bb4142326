"""AV1 by the encoder SVT-AV1, through PyAV: `pip install av`.

Values are quantized to 10 bits (or 8). The encoder has no gray format, so frames are 4:2:0 with neutral chroma, which
costs very few bytes. The whole cine is one group of pictures, tuned for PSNR.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

from data.codecs._video import VideoCodec
from utils.config.ranges import Range

LEAST_SIDE = 64  # smaller frames are refused by older releases of the encoder
ERRORS_ONLY = "1"  # of the encoder's log, which otherwise describes each run on stderr


@dataclass
class Options:
    """Options of the codec.

    Args:
        ladder: values of CRF, from the most bytes to the fewest.
        preset: 0 is the slowest and best, 13 the fastest.
        bits: of a pixel.
    """

    ladder: list[Annotated[int, Range(1, 63)]] = field(default_factory=lambda: [15, 25, 35, 45, 55, 60, 63])
    preset: Annotated[int, Range(0, 13)] = 4
    bits: Literal[8, 10] = 10


def build(options: Options) -> VideoCodec:
    """The codec with these options."""
    os.environ.setdefault("SVT_LOG", ERRORS_ONLY)
    preset = str(options.preset)
    return VideoCodec(
        name="svt_av1",
        title=f"SVT-AV1, preset {preset}, {options.bits} bits",
        quality="CRF",
        ladder=tuple(options.ladder),
        bits=options.bits,
        encoder="libsvtav1",
        decoder="libdav1d",
        pixel_format="yuv420p" if options.bits == 8 else "yuv420p10le",
        least_side=LEAST_SIDE,
        options=lambda crf: {"preset": preset, "crf": f"{crf:.0f}", "svtav1-params": "tune=1:lp=1:keyint=-1"},
    )
