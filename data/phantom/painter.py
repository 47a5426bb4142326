"""Drawing and labels of the beating heart in each phase, inside a chest at rest.

Axes: H, W image grid, T phases, P selected pixels.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from data.phantom.chest import Grid, cover
from data.phantom.heart import ANGLES, LEFT_VENTRICLE, Heart


class HeartPainter:
    """Draws the heart of one patient into the image of the chest; the tissue around the heart moves with it."""

    def __init__(self, rng: np.random.Generator, grid: Grid, heart: Heart, signal: dict[str, np.float32]) -> None:
        self.grid, self.heart, self.signal = grid, heart, signal
        noise = rng.standard_normal((4, 128, 128)).astype(np.float32)
        coarse = [ndimage.gaussian_filter(n, s, mode="wrap") for n, s in zip(noise, (7.0, 3.0, 2.0, 1.2), strict=True)]
        self.texture = [c / c.std() for c in coarse]
        self.lv, self.rv = np.float32(1.0), np.float32(rng.uniform(0.72, 1.05))
        self.trabecular = np.float32(rng.uniform(0.15, 0.6))
        self.papillary = [(a + rng.normal(0, 0.25), *rng.uniform((0.6, 0.12), (0.85, 0.26))) for a in (1.9, -2.0)]
        self.swirl = rng.uniform(0, 2 * np.pi, size=2)

    def polar(self, z: int, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return radius in mm and angle bin of pixels (P,) by flat index, around the moving LV centre, each (T, P)."""
        center, angle = self.heart.center_mm[z], self.heart.angle[z]
        dx = self.grid.x.ravel()[where] - center[:, :1]
        dy = self.grid.y.ravel()[where] - center[:, 1:]
        turned = np.arctan2(dy, dx) - angle[:, None]
        bins = np.round(turned * np.float32(ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
        return np.sqrt(dx * dx + dy * dy), bins

    def masks(self, z: int, phases: list[int]) -> np.ndarray:
        """Return labels at the pixel centres of a slice, (len(phases), H, W) uint8: 1 RV, 2 MYO, 3 LV."""
        size = self.grid.x.shape
        labels = np.zeros((len(phases), *size), np.uint8)
        if self.heart.level[z] == LEFT_VENTRICLE:
            radius, bins = self.polar(z, np.arange(self.grid.x.size))
            for row, t in enumerate(phases):
                for label, table in ((1, self.heart.rv), (2, self.heart.epi), (3, self.heart.endo)):
                    inside = radius[t] < table[z, t][bins[t]]
                    labels[row][inside.reshape(size)] = label
        return labels

    def paint(self, chest: np.ndarray, z: int) -> np.ndarray:
        """Return the cine of a slice, (T, H, W) float32, from its chest at rest (H, W)."""
        heart, signal = self.heart, self.signal
        size, spacing = chest.shape[0], np.float32(self.grid.spacing_mm)
        frames = np.repeat(chest[None], len(heart.contraction), axis=0)
        middle = heart.center_mm[z].mean(axis=0)
        near = np.hypot(self.grid.x - middle[0], self.grid.y - middle[1]) < heart.sac[z].max() + 26
        where = np.flatnonzero(near)
        radius, bins = self.polar(z, where)
        contours = (heart.endo, heart.epi, heart.rv, heart.wall, heart.sac)
        endo, epi, rv, wall, sac = (np.take_along_axis(c[z], bins, axis=1) for c in contours)

        # tissue outside the heart moves with its surface; it does not move at a distance of 20 mm or more
        outside = radius - sac
        displacement = (
            (heart.sac[z, heart.ed][bins] - sac) * np.exp(-np.maximum(outside, 0) / np.float32(9)) * (outside > -3)
        )
        rows, cols = self._pixel_axes()
        toward = displacement / np.maximum(radius, 1)
        dx = (self.grid.x.ravel()[where] - heart.center_mm[z][:, :1]) * toward
        dy = (self.grid.y.ravel()[where] - heart.center_mm[z][:, 1:]) * toward
        at = [where // size + dx * rows[0] + dy * rows[1], where % size + dx * cols[0] + dy * cols[1]]
        paint = ndimage.map_coordinates(chest, at, order=1, mode="nearest", output=np.float32)

        edge = float(spacing) * (1 + 1.2 * heart.depth[z] ** 2)  # near the apex the wall is oblique to the slice
        slow, medium, quick, grain = self._material_texture(z, radius, bins, endo)
        muscle = signal["myocardium"] * (1 + 0.06 * medium + 0.07 * grain)
        stream = self._flow()
        pool_rv = self.rv * (1 + 0.06 * slow + 0.07 * medium * stream[0])
        pool_rv *= 1 - self.trabecular * np.clip(0.6 * quick - 0.2, 0, 0.8)
        pool_lv = self.lv * (1 + 0.05 * slow + 0.05 * medium * stream[1] + 0.02 * grain)
        pool_lv *= 1 - 1.6 * self.trabecular * np.clip(quick + 0.3, 0, 0.8) * np.exp(-(((endo - radius) / 4.5) ** 2))
        fat = signal["fat"] * (0.8 + 0.12 * medium + 0.1 * quick)
        paint += cover(-outside, edge) * (fat - paint)
        pericardium = np.exp(-((outside / np.float32(1.1)) ** 2)) * np.clip(0.4 + 0.3 * medium, 0, 0.7)
        paint *= 1 - pericardium
        for table, tissue in ((wall, muscle), (rv, pool_rv), (epi, muscle), (endo, pool_lv)):
            paint += cover(table - radius, edge) * (table > 0) * (tissue - paint)
        self._paint_papillaries(paint, z, radius, bins, endo, quick, edge)
        frames.reshape(len(frames), -1)[:, where] = paint
        return frames

    def _pixel_axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels along rows and along columns for one millimetre along x and y of the scene."""
        x, y, s = self.grid.x, self.grid.y, self.grid.spacing_mm
        along_rows = np.array([x[1, 0] - x[0, 0], y[1, 0] - y[0, 0]]) / s**2
        along_cols = np.array([x[0, 1] - x[0, 0], y[0, 1] - y[0, 0]]) / s**2
        return along_rows.astype(np.float32), along_cols.astype(np.float32)

    def _flow(self) -> np.ndarray:
        """Return the factors of the blood's brightness pattern over the cycle, (2, T, 1): RV, LV."""
        turn = 2 * np.pi * np.arange(len(self.heart.contraction)) / len(self.heart.contraction)
        return np.sin(turn + self.swirl[:, None])[:, :, None].astype(np.float32)

    def _material_texture(self, z: int, radius: np.ndarray, bins: np.ndarray, endo: np.ndarray) -> list[np.ndarray]:
        """Return textures that move with the tissue, by angle and distance from the wall of the cavity, each (T, P)."""
        angle = bins * np.float32(2 * np.pi / ANGLES)
        rest = radius + (self.heart.endo[z, self.heart.ed][bins] - endo)
        u = (rest * np.cos(angle)).astype(np.int32) + 13 * z
        v = (rest * np.sin(angle)).astype(np.int32) + 7 * z
        index = (u % 128) * 128 + v % 128
        return [t.ravel()[index] for t in self.texture]

    def _paint_papillaries(
        self,
        paint: np.ndarray,
        z: int,
        radius: np.ndarray,
        bins: np.ndarray,
        endo: np.ndarray,
        rough: np.ndarray,
        edge: float,
    ) -> None:
        """Draw two papillary muscles in the middle slices; their labels are those of the cavity, as in ACDC."""
        depth = self.heart.depth[z]
        if self.heart.level[z] != LEFT_VENTRICLE or not 0.2 < depth < 0.85:
            return
        angle = bins * np.float32(2 * np.pi / ANGLES)
        cavity = np.sqrt(np.mean(self.heart.endo[z] ** 2, axis=1))[:, None]  # (T, 1)
        at_rest = np.float32(cavity.max())
        # angle, and distance and radius as fractions of the radius of the cavity
        for direction, place, width in self.papillary:
            far, apart = place * cavity, angle - np.float32(direction)
            gap2 = radius**2 + far**2 - 2 * radius * far * np.cos(apart)
            reach = np.minimum(width * at_rest, 0.4 * cavity)
            muscle = cover(reach * (1 + 0.3 * rough) - np.sqrt(np.maximum(gap2, 0)), 2 * edge) * (radius < endo)
            paint += muscle * (self.signal["myocardium"] * np.float32(1.1) - paint)
