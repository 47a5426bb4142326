"""Chest and abdomen of a phantom at rest, with its pixel grid, smooth random fields and simple shapes.

The coordinates of the scene are in mm: LV centre near (0, 0), RV to the left, front of the chest above, liver below.
The pixel grid contains rotation, mirroring and position of the patient. The signal of bright blood is 1.

Axes: H, W image grid (displayed as x, y), as a NIfTI file stores them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

TISSUES = {  # range of the signal relative to blood
    "air": (0.0, 0.01),
    "fat": (0.75, 1.25),
    "muscle": (0.20, 0.34),
    "lung": (0.02, 0.10),
    "liver": (0.22, 0.38),
    "spleen": (0.25, 0.55),
    "gut": (0.15, 0.8),
    "bone": (0.25, 0.5),
    "vessel": (0.75, 1.1),
    "myocardium": (0.26, 0.42),
}
# name, tissue, centre x y, half axes a b (mm), jitter of the centre (mm), relative growth of the axes for each mm of
# depth, dark rim (chemical shift makes the border between water and fat dark)
ORGANS = (
    ("right lung", "lung", -92, -8, 58, 72, 8, -0.001, 0.0),
    ("left lung", "lung", 52, -14, 62, 78, 8, -0.002, 0.0),
    ("mediastinum", "fat", -20, -20, 34, 40, 12, -0.003, 0.0),
    ("abdomen", "fat", -10, 138, 150, 92, 6, 0.002, 0.5),
    ("liver", "liver", -62, 92, 80, 46, 8, 0.002, 0.7),
    ("stomach", "gut", 62, 84, 34, 25, 9, 0.002, 0.7),
    ("spleen", "spleen", 106, 92, 24, 36, 8, 0.0, 0.7),
    ("kidney", "spleen", 72, 138, 21, 30, 8, 0.0, 0.7),
    ("bowel", "gut", -8, 150, 30, 20, 12, 0.0, 0.6),
    ("colon", "gut", -70, 158, 26, 18, 12, 0.0, 0.6),
    ("spine", "bone", 18, 118, 21, 19, 5, 0.0, 0.6),
    ("aorta", "vessel", 40, 68, 11, 11, 5, 0.0, 0.4),
    ("cava", "vessel", -44, 60, 10, 8, 5, 0.0, 0.4),
)


@dataclass(frozen=True)
class Grid:
    """Millimetre coordinates of every pixel in the scene, x and y (H, W), and the pixel size in mm."""

    x: np.ndarray
    y: np.ndarray
    spacing_mm: float


def make_grid(rng: np.random.Generator, size: int, spacing_mm: float, free_mm: float) -> Grid:
    """Place the scene in a square image with random rotation, mirroring and shift.

    Args:
        size: H = W in pixels.
        spacing_mm: pixel size.
        free_mm: largest distance of the heart from the centre of the image.
    """
    turn = rng.normal(0, 0.45)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    shift = rng.uniform(-1, 1, size=2) * min(free_mm, 22.0)
    line = (np.arange(size) - (size - 1) / 2) * spacing_mm
    u, v = np.meshgrid(line - shift[0], line - shift[1], indexing="ij")
    u = u * mirror
    x, y = np.cos(turn) * u - np.sin(turn) * v, np.sin(turn) * u + np.cos(turn) * v
    return Grid(x.astype(np.float32), y.astype(np.float32), spacing_mm)


class SmoothField:
    """A random field (H, W) of unit variance that changes smoothly over the image and from slice to slice.

    Args:
        cell_mm: correlation length in the image.
        reach_mm: correlation length across the slices.
    """

    def __init__(self, rng: np.random.Generator, grid: Grid, cell_mm: float, reach_mm: float = 40.0) -> None:
        size = grid.x.shape[0]
        cells = max(2, int(np.ceil(size * grid.spacing_mm / cell_mm)))
        steps = np.linspace(1, cells + 1, size, dtype=np.float32)
        at = np.meshgrid(steps, steps, indexing="ij")
        noise = rng.standard_normal((2, cells + 3, cells + 3)).astype(np.float32)
        self.parts = [1.5 * ndimage.map_coordinates(n, at, order=3, mode="nearest", prefilter=False) for n in noise]
        self.rate = 1.0 / reach_mm

    def at(self, depth_mm: float) -> np.ndarray:
        """Return the field in the slice at this depth, (H, W) float32."""
        return np.cos(self.rate * depth_mm) * self.parts[0] + np.sin(self.rate * depth_mm) * self.parts[1]


def ellipse(x: np.ndarray, y: np.ndarray, center: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Return the distance in mm to an ellipse, along the ray from its centre, positive inside."""
    dx, dy = x - np.float32(center[0]), y - np.float32(center[1])
    level = np.sqrt((dx / np.float32(axes[0])) ** 2 + (dy / np.float32(axes[1])) ** 2) + np.float32(1e-6)
    return np.sqrt(dx * dx + dy * dy) * (1 / level - 1)


def cover(distance_mm: np.ndarray, edge_mm: float) -> np.ndarray:
    """Return the fraction of a pixel inside a shape, from the signed distance of its centre and the edge width."""
    return np.clip(distance_mm / np.float32(edge_mm) + np.float32(0.5), 0, 1)


class Chest:
    """All tissue around the heart of one patient; `paint` draws one slice at rest."""

    def __init__(self, rng: np.random.Generator, grid: Grid) -> None:
        self.grid = grid
        self.signal = {name: np.float32(rng.uniform(*span)) for name, span in TISSUES.items()}
        self.bend = [SmoothField(rng, grid, 45.0, 60.0) for _ in range(2)]
        self.bend_mm = rng.uniform(2.0, 5.0)
        scales = ((28.0, 40.0), (7.0, 12.0), (20.0, 30.0))
        self.coarse, self.fine, self.septa = (SmoothField(rng, grid, *s) for s in scales)
        self.grow = rng.uniform(0.92, 1.12)
        self.center = {o[0]: np.array(o[2:4]) * self.grow + rng.normal(0, o[6], size=2) for o in ORGANS}
        self.axes = {o[0]: np.array(o[4:6]) * self.grow * rng.uniform(0.8, 1.2, size=2) for o in ORGANS}
        self.inner_fat = np.float32(rng.uniform(0.45, 0.85))
        self.tone = {o[0]: np.float32(rng.uniform(0.85, 1.15)) for o in ORGANS}
        self.body_center = np.array([rng.uniform(-25, 5), rng.uniform(35, 55)])
        self.body_axes = np.array([rng.uniform(150, 180), rng.uniform(115, 150)]) * self.grow
        self.fat_mm, self.muscle_mm = rng.uniform(8, 32), rng.uniform(9, 18)
        self.ribs = rng.uniform(0, 2 * np.pi) + np.arange(14) * (2 * np.pi / 14)
        spots = rng.uniform(-1, 1, size=(110, 3))
        self.spots = np.stack([spots[:, 0] * 125, spots[:, 1] * 80 - 15, spots[:, 2] * 60], axis=1)
        self.spot_mm = rng.uniform(1.0, 3.0, size=110)
        self.drift = rng.normal(0, 0.08, size=2)

    def paint(self, depth_mm: float) -> np.ndarray:
        """Return the slice at this depth below the middle of the LV, (H, W) float32."""
        edge = 1.2 * self.grid.spacing_mm
        x = self.grid.x + self.bend_mm * self.bend[0].at(depth_mm)
        y = self.grid.y + self.bend_mm * self.bend[1].at(depth_mm)
        coarse, fine = self.coarse.at(depth_mm), self.fine.at(depth_mm)
        mottle = 1 + 0.07 * coarse + 0.06 * fine
        strands = np.exp(-(((self.septa.at(depth_mm) + 0.4 * fine) / 0.1) ** 2)) * np.clip(0.5 * coarse, 0, 0.5)
        fat = self.signal["fat"] * mottle * (1 - strands) * (1 + 0.06 * np.minimum(fine, 0))
        flesh = self.signal["muscle"] * (mottle + 0.6 * np.exp(-((fine / 0.3) ** 2)))
        vessels = np.clip(fine + 0.5 * coarse - 1.5, 0, 1)

        skin = ellipse(x, y, self.body_center, self.body_axes)
        image = np.full_like(x, self.signal["air"])
        for distance, tissue in ((skin, fat), (skin - self.fat_mm, flesh)):
            image += cover(distance, edge) * (tissue - image)
        inside = skin - self.fat_mm - self.muscle_mm
        self._paint_ribs(image, x, y, edge)
        image += cover(inside, edge) * (self.inner_fat * fat - image)
        for name, tissue, *_, growth, rim in ORGANS:
            axes = self.axes[name] * max(0.4, 1 + growth * depth_mm)
            distance = np.minimum(ellipse(x, y, self.center[name] + self.drift * depth_mm, axes), inside + 4)
            color = self.signal[tissue] * self.tone[name] * (mottle + vessels * (rim > 0.5))
            if tissue == "fat":
                color = self.inner_fat * fat
            elif tissue == "gut":
                color = color * np.clip(1 + 0.25 * coarse + 0.3 * fine, 0.3, 2)
            image += cover(distance, edge) * (color - image)
            if rim:
                image *= 1 - rim * np.exp(-((distance / 1.1) ** 2))
            if name == "mediastinum":
                self._paint_vessels(image, x, y, depth_mm, cover(inside, edge))
        return image

    def _paint_ribs(self, image: np.ndarray, x: np.ndarray, y: np.ndarray, edge: float) -> None:
        ring = self.body_axes - self.fat_mm - 0.6 * self.muscle_mm
        for angle in self.ribs:
            center = self.body_center + ring * np.array([np.cos(angle), np.sin(angle)])
            rib = ellipse(x, y, center, np.array([6.0, 4.5]))
            image += cover(rib, edge) * (self.signal["bone"] - image)
            image *= 1 - 0.6 * np.exp(-((rib / 1.3) ** 2))

    def _paint_vessels(
        self, image: np.ndarray, x: np.ndarray, y: np.ndarray, depth_mm: float, inside: np.ndarray
    ) -> None:
        for (cx, cy, cz), radius in zip(self.spots, self.spot_mm, strict=True):
            near = np.exp(-(((depth_mm - cz) / 14) ** 2))
            if near > 0.1:
                spot = np.exp(-((x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2) / np.float32(radius**2))
                image += (0.7 * near * self.signal["vessel"]) * inside * spot
