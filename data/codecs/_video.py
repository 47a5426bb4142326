"""Video codecs by PyAV: one slice's cine is one stream of packets without a container."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from data.codecs._common import from_levels, require, to_levels

FRAMES_PER_SECOND = 25  # of the stream; rate control by CRF hardly depends on it


@contextmanager
def same_scheduling() -> Iterator[None]:
    """Restore the scheduling of this thread: SVT-AV1 takes real-time priority when it runs as root, as in a container.

    At this priority, other threads on the same core would have to wait.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)


@dataclass(frozen=True)
class VideoCodec:
    """An encoder and a decoder of FFmpeg, for gray frames.

    Frames are padded to an even size of at least `least_side` by repeating the edge, and cut again after decoding.
    Where a pixel format has chroma, it is neutral (half of the range).

    Args:
        name: of the codec, for errors.
        title: see `Codec`.
        quality: see `Codec`.
        ladder: see `Codec`.
        bits: of a pixel, 8 or 10, see `to_levels`; the whole range of levels is used.
        encoder: FFmpeg's name of the encoder.
        decoder: FFmpeg's name of the decoder.
        pixel_format: of the frames for the encoder.
        least_side: smallest height and width of a frame for the encoder.
        options: setting -> options of the encoder.

    Raises:
        ValueError: PyAV is not installed, or lacks the encoder or the decoder.
    """

    name: str
    title: str
    quality: str
    ladder: tuple[float, ...]
    bits: int
    encoder: str
    decoder: str
    pixel_format: str
    least_side: int
    options: Callable[[float], dict[str, str]]

    def __post_init__(self) -> None:
        av = require(self.name, "av")
        for codec, mode in ((self.encoder, "w"), (self.decoder, "r")):
            try:
                av.codec.Codec(codec, mode)
            except ValueError:
                raise ValueError(
                    f"codec {self.name}: this PyAV has no {codec}; install another build: pip install -U 'av>=15.1'"
                ) from None

    def encode(self, cine: np.ndarray, setting: float) -> list[bytes]:
        """See `Codec`."""
        av = require(self.name, "av")
        height, width = (max(self.least_side, n + n % 2) for n in cine.shape[1:])
        rows, columns = height - cine.shape[1], width - cine.shape[2]
        levels = np.pad(to_levels(cine, self.bits), ((0, 0), (0, rows), (0, columns)), mode="edge")
        context: Any = av.CodecContext.create(self.encoder, "w")
        context.width, context.height, context.pix_fmt = width, height, self.pixel_format
        context.framerate, context.time_base = Fraction(FRAMES_PER_SECOND), Fraction(1, FRAMES_PER_SECOND)
        context.thread_count = 1  # the same bytes on every machine
        context.options = self.options(setting)
        with same_scheduling():
            packets = [bytes(packet) for frame in self._frames(levels) for packet in context.encode(frame)]
            return packets + [bytes(packet) for packet in context.encode(None)]  # the packets that were held back

    def decode(self, parts: Sequence[bytes], hw: tuple[int, int]) -> np.ndarray:
        """See `Codec`."""
        av = require(self.name, "av")
        context: Any = av.CodecContext.create(self.decoder, "r")
        context.thread_count = 1
        frames = [frame for part in parts for frame in context.decode(av.Packet(part))]
        frames += context.decode(None)
        luma = [self._plane(frame.planes[0])[: hw[0], : hw[1]] for frame in frames]
        return from_levels(np.stack(luma), self.bits)

    def _frames(self, levels: np.ndarray) -> Iterator[Any]:
        """Frames of the encoder's pixel format, from (T, H, W) levels."""
        av = require(self.name, "av")
        for index, image in enumerate(levels):
            frame = av.VideoFrame(image.shape[1], image.shape[0], self.pixel_format)
            for number, plane in enumerate(frame.planes):
                content = np.full_like(self._plane(plane), 1 << (self.bits - 1))  # neutral chroma
                if number == 0:
                    content[:, : image.shape[1]] = image
                plane.update(content.tobytes())
            frame.pts = index
            yield frame

    def _plane(self, plane: Any) -> np.ndarray:
        """The levels of a plane (H, W + padding of the rows), a view of its memory."""
        return np.frombuffer(plane, np.uint8 if self.bits == 8 else np.uint16).reshape(plane.height, -1)
