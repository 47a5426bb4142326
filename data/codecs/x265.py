"""HEVC by the encoder x265, through PyAV: `pip install av`.

Values are quantized to 10 bits (or 8); frames are gray, without chroma. The whole cine is one group of pictures, tuned
for PSNR. The text that x265 writes about itself into each stream is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from data.codecs._video import VideoCodec
from utils.config.ranges import Range

LEAST_SIDE = 64  # at 10 bits, x265 writes outside its memory for frames of up to 48 columns
PARAMETERS = "info=0:log-level=error:pools=none:frame-threads=1:keyint=-1"
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]


@dataclass
class Options:
    """Options of the codec.

    Args:
        ladder: values of CRF, from the most bytes to the fewest.
        preset: effort of the encoder.
        bits: of a pixel.
    """

    ladder: list[Annotated[int, Range(0, 51)]] = field(default_factory=lambda: [14, 18, 22, 26, 30, 34, 38, 42])
    preset: Preset = "slow"
    bits: Literal[8, 10] = 10


def build(options: Options) -> VideoCodec:
    """The codec with these options."""
    preset = options.preset
    return VideoCodec(
        name="x265",
        title=f"x265, preset {preset}, {options.bits} bits",
        quality="CRF",
        ladder=tuple(options.ladder),
        bits=options.bits,
        encoder="libx265",
        decoder="hevc",
        pixel_format="gray" if options.bits == 8 else "gray10le",
        least_side=LEAST_SIDE,
        options=lambda crf: {"preset": preset, "crf": f"{crf:.0f}", "tune": "psnr", "x265-params": PARAMETERS},
    )
