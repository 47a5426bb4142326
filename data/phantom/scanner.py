"""Effects of the scanner on a phantom: coil shading, limited k-space, Rician noise, integer storage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft


@dataclass(frozen=True)
class Scanner:
    """The acquisition of one patient.

    Args:
        shading: (H, W) sensitivity of the coils, with mean 1 in the middle of the image.
        band: (H, W) k-space window in FFT order, in [0, 1].
        noise: standard deviation of each noise channel, relative to blood = 1.
        top: largest stored value.
    """

    shading: np.ndarray
    band: np.ndarray
    noise: float
    top: int

    def acquire(self, rng: np.random.Generator, frames: np.ndarray) -> np.ndarray:
        """Return magnitude images (T, H, W) float32 of signals (T, H, W), with shading, noise and limited k-space."""
        # the window removes part of the noise; sigma compensates, so that `noise` is the noise of the image
        sigma = np.float32(self.noise / np.sqrt(np.mean(self.band**2)))
        noise = rng.standard_normal((*frames.shape, 2), dtype=np.float32)
        signal = (noise * sigma).view(np.complex64)[..., 0]
        signal += frames * self.shading
        spectrum = fft.fft2(signal, overwrite_x=True)
        spectrum *= self.band
        return np.abs(fft.ifft2(spectrum, overwrite_x=True))

    def store(self, images: np.ndarray) -> np.ndarray:
        """Scale images to int16, so that the brightest voxel is `top`."""
        return np.round(images * (self.top / float(images.max()))).astype(np.int16)


def make_scanner(rng: np.random.Generator, size: int, noise_percent: tuple[float, float]) -> Scanner:
    """Draw an acquisition for a square image of `size` pixels; the noise is in % of the blood's signal."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    u, v = np.meshgrid(line, line, indexing="ij")
    tilt = rng.normal(0, 0.22, size=2)
    shading = np.exp(tilt[0] * u + tilt[1] * v + rng.normal(0, 0.12) * u * v)
    for _ in range(3):  # surface coils are around the image
        angle = rng.uniform(0, 2 * np.pi)
        distance2 = (u - 1.2 * np.cos(angle)) ** 2 + (v - 1.2 * np.sin(angle)) ** 2
        shading += rng.uniform(0, 0.7) * np.exp(-distance2 / rng.uniform(0.3, 0.9))
    shading /= shading[size // 4 : -size // 4 or None, size // 4 : -size // 4 or None].mean()
    frequency = np.abs(fft.fftfreq(size)).astype(np.float32) * 2  # 1 at Nyquist
    windows = [np.clip((rng.uniform(0.6, 1.0) - frequency) / rng.uniform(0.06, 0.25) + 0.5, 0, 1) for _ in range(2)]
    band = (np.sin(np.pi / 2 * windows[0]) ** 2)[:, None] * (np.sin(np.pi / 2 * windows[1]) ** 2)[None]
    noise = float(np.exp(rng.uniform(*np.log(noise_percent)))) / 100
    return Scanner(shading.astype(np.float32), band.astype(np.float32), noise, int(rng.integers(200, 1501)))
