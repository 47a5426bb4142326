"""The beating heart of a phantom: short-axis contours in closed form, with exactly known areas and volumes.

Every contour is a radius R(angle) around the LV centre; angle 0 is the direction of the middle of the RV. Areas are
added to the squared radius: R_epi^2 = R_endo^2 + (wall area / pi) * share(angle), where the mean of share is 1. So the
enclosed areas are exact.

Axes: D slices (base first), T phases, K angles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

ANGLES = 720
THETA = (np.arange(ANGLES) * (2 * np.pi / ANGLES) + np.pi) % (2 * np.pi) - np.pi  # (K,) in [-pi, pi)
BASE, LEFT_VENTRICLE, BEYOND_APEX = -1, 0, 1


@dataclass(frozen=True)
class Group:
    """Ranges of the parameters of a diagnosis at end-diastole: volumes in mL, EF in %, wall thickness in mm."""

    lv_edv_ml: tuple[float, float]
    lv_ef: tuple[float, float]
    wall_mm: tuple[float, float]
    rv_edv_ml: tuple[float, float]
    rv_ef: tuple[float, float]


GROUPS = {
    "NOR": Group((95, 175), (52, 72), (7.0, 9.5), (90, 160), (48, 68)),
    "MINF": Group((120, 230), (22, 46), (7.0, 9.5), (90, 170), (38, 62)),
    "DCM": Group((190, 310), (15, 36), (6.0, 8.5), (110, 210), (20, 50)),
    "HCM": Group((80, 150), (58, 75), (10.0, 15.0), (80, 140), (50, 70)),
    "RV": Group((80, 150), (46, 66), (6.5, 9.0), (170, 260), (18, 42)),
}


@dataclass(frozen=True)
class Heart:
    """Contours of one patient's heart over the cycle.

    Args:
        endo, epi, rv, wall, sac: (D, T, K) radii in mm of the LV cavity, the LV wall, the RV cavity, the RV wall and
            the epicardial fat, each to its outer border; each radius is at least as large as the one before it.
        center_mm: (D, T, 2) LV centre relative to the position of the heart in the scene.
        angle: (D, T) direction of the RV in radians.
        contraction: (T,) 0 at end-diastole, 1 at end-systole.
        level: (D,) BASE, LEFT_VENTRICLE or BEYOND_APEX; only LEFT_VENTRICLE slices are labelled.
        depth: (D,) 0 at the mitral valve, 1 at the apex.
    """

    group: str
    endo: np.ndarray
    epi: np.ndarray
    rv: np.ndarray
    wall: np.ndarray
    sac: np.ndarray
    center_mm: np.ndarray
    angle: np.ndarray
    contraction: np.ndarray
    level: np.ndarray
    depth: np.ndarray
    thickness_mm: float
    ed: int
    es: int

    def volumes_ml(self) -> dict[str, np.ndarray]:
        """Return the exact volumes of RV, MYO and LV in the labelled slices, each (T,) in mL."""
        area_mm2 = (np.pi * np.mean(r.astype(np.float64) ** 2, axis=2) for r in (self.endo, self.epi, self.rv))
        lv, epi, rv = (np.sum(a[self.level == LEFT_VENTRICLE], axis=0) * self.thickness_mm / 1000 for a in area_mm2)
        return {"RV": rv - epi, "MYO": epi - lv, "LV": lv}


def contraction_curve(rng: np.random.Generator, phases: int) -> np.ndarray:
    """Return the contraction over a cycle, (T,), 0 at ED, 1 at ES: ejection, early filling, diastasis, atrial kick."""
    es = rng.uniform(0.30, 0.45)
    filled = es + rng.uniform(0.16, 0.24)
    plateau = rng.uniform(0.18, 0.38)
    knots = [0.0, 0.06, 0.5 * es, es, filled, 0.86, 1.0]
    values = [0.0, 0.05, rng.uniform(0.55, 0.70), 1.0, plateau + 0.04, plateau, 0.0]
    curve = PchipInterpolator(knots, values)(np.arange(phases) / phases)
    curve = (curve - curve.min()) / (curve.max() - curve.min())
    late = rng.random() < 0.25  # the trigger does not always fire at end-diastole
    return np.roll(curve, int(rng.integers(1, max(2, phases // 6))) if late else 0)


def make_heart(rng: np.random.Generator, group: str, slices: int, phases: int, reach_mm: float) -> Heart:
    """Draw one heart.

    Args:
        rng: random generator; the same state gives the same heart.
        group: a key of GROUPS.
        slices: D, at least 1.
        phases: T, at least 2.
        reach_mm: largest allowed radius around the LV centre; a larger heart is scaled down.
    Returns:
        The heart; its volumes are exactly those of its contours.
    """
    ranges = GROUPS[group]
    curve = contraction_curve(rng, phases)
    lv_edv, rv_edv = rng.uniform(*ranges.lv_edv_ml), rng.uniform(*ranges.rv_edv_ml)
    length = rng.uniform(84, 102) * (lv_edv / 140) ** (1 / 3)
    level, depth, thickness = _slice_levels(rng, slices, length)

    axis = np.linspace(0, 1, 200)
    in_lv, in_heart = level == LEFT_VENTRICLE, level != BEYOND_APEX
    lv_area = in_heart * lv_edv * 1000 / length * _lv_profile(depth) / _lv_profile(axis).mean()  # (D,) mm^2
    rv_area = in_heart * rv_edv * 1000 / length * _rv_profile(depth) / _rv_profile(axis).mean()
    lv_ef = _local_ef(rng.uniform(*ranges.lv_ef) / 100, lv_area, depth, in_lv)
    rv_ef = _local_ef(rng.uniform(*ranges.rv_ef) / 100, rv_area, depth, in_lv)

    shape, share, motion = _wall_pattern(rng, group, depth)
    gain = lv_ef[:, None] / np.mean(shape**2 * motion, axis=1, keepdims=True)
    remaining = 1 - curve[None, :, None] * np.clip(gain * motion, -0.6, 0.95)[:, None]  # (D, T, K)
    endo2 = (lv_area / np.pi)[:, None, None] * (shape**2)[:, None] * remaining

    wall_mm = rng.uniform(*ranges.wall_mm) * (1 - 0.25 * depth) * np.where(level == BASE, 0.35, 1.0) * in_heart
    wall_area = np.pi * ((np.sqrt(lv_area / np.pi) + wall_mm) ** 2 - lv_area / np.pi)
    growth = 1 + rng.uniform(0.0, 0.05) * curve  # the volume of a wall changes little when it thickens
    epi2 = endo2 + (wall_area / np.pi)[:, None, None] * growth[None, :, None] * share[:, None]

    bump, edges = _rv_bump(rng)
    rv2 = epi2 + (rv_area[:, None] / np.pi * (1 - rv_ef[:, None] * curve))[:, :, None] * bump
    endo, epi, rv = np.sqrt(endo2), np.sqrt(epi2), np.sqrt(rv2)
    wall = rv + rng.uniform(2.2, 4.0) * np.minimum(1, 6 * bump / bump.max()) * (rv > epi + 0.5)
    grooves = sum(np.exp(-(((THETA - e) / 0.35) ** 2)) for e in edges)
    patches = np.maximum(0, np.cos(THETA + rng.uniform(-3, 3)) + 0.6 * np.cos(3 * THETA + rng.uniform(-3, 3)))
    fat_mm = rng.uniform(1.5, 6.0) * (rng.uniform(0.0, 0.25) + grooves + rng.uniform(0.1, 0.7) * patches)
    sac = wall + np.where(in_heart[:, None], fat_mm, fat_mm + 6.0)[:, None]

    scale = min(1.0, reach_mm / float(sac.max()))
    endo, epi, rv, wall, sac = ((scale * r).astype(np.float32) for r in (endo, epi, rv, wall, sac))
    center, angle = _rigid_motion(rng, curve, depth)
    ed, es = int(curve.argmin()), int(curve.argmax())
    return Heart(group, endo, epi, rv, wall, sac, center, angle, curve, level, depth, float(thickness), ed, es)


def _slice_levels(rng: np.random.Generator, slices: int, length_mm: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return level (D,), depth (D,) and thickness in mm of the slices; long stacks can extend beyond valve or apex."""
    above = int(slices >= 6 and rng.random() < 0.4)
    below = int(slices >= 7 and rng.random() < 0.4)
    cut = slices - above - below
    thickness = float(np.round(min(length_mm / cut, 10.0), 1))
    span = min(1.0, cut * thickness / length_mm)
    start = (1 - span) * rng.uniform(0.25, 0.5)
    level = np.array([BASE] * above + [LEFT_VENTRICLE] * cut + [BEYOND_APEX] * below)
    depth = start + span * (np.arange(slices) - above + 0.5) / cut
    return level, np.clip(depth, 0.0, 1.0), thickness


def _lv_profile(depth: np.ndarray) -> np.ndarray:
    """Return the relative area of the LV along the long axis; it is a little smaller at the valve."""
    return (1 - depth**2.5) * (0.8 + 0.2 * np.minimum(1, depth / 0.25))


def _rv_profile(depth: np.ndarray) -> np.ndarray:
    """Return the area of the RV along the long axis of the LV: largest near the base, zero before the apex."""
    return np.maximum(0, 1 - (depth / 0.92) ** 2)


def _local_ef(ef: float, area: np.ndarray, depth: np.ndarray, in_lv: np.ndarray) -> np.ndarray:
    """Return the EF of each slice, (D,): higher at the apex, `ef` in the whole volume, negative in the atria."""
    weight = area * in_lv
    local = 1 + 0.4 * (depth - np.average(depth, weights=weight))
    local = np.clip(ef * local / np.average(local, weights=weight), 0.0, 0.93)
    return np.where(in_lv, local, -0.25)


def _wall_pattern(rng: np.random.Generator, group: str, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return contour shape, share of the wall and share of the motion at each angle of the LV, each (D, K)."""
    shape = np.ones((len(depth), ANGLES))
    for order, amplitude in ((2, 0.05), (3, 0.025), (4, 0.015), (7, 0.008)):
        phase = rng.uniform(0, 2 * np.pi) + rng.uniform(-1.5, 1.5) * depth[:, None]
        shape += amplitude * rng.uniform(0.2, 1.0) * np.cos(order * THETA + phase)
    if group == "RV":  # an overloaded RV flattens the septum
        shape -= rng.uniform(0.06, 0.14) * np.exp(-((THETA / 0.7) ** 2))
    shape /= np.sqrt(np.mean(shape**2, axis=1, keepdims=True))

    share = 1 + rng.uniform(0.0, 0.2) * np.cos(THETA + rng.uniform(-1, 1))
    share = share + rng.uniform(0, 0.1) * np.cos(2 * THETA + 3 * depth[:, None])
    motion = np.ones_like(share)
    if group == "HCM":
        share = share + rng.uniform(0.5, 1.4) * np.exp(-(((THETA - rng.uniform(-0.8, 0.8)) / 0.9) ** 2))
    if group == "MINF":
        away = (THETA - rng.uniform(-np.pi, np.pi) + np.pi) % (2 * np.pi) - np.pi
        below = depth[:, None] - rng.uniform(0.3, 0.8)
        scar = np.exp(-((away / rng.uniform(0.5, 0.9)) ** 2) - (below / 0.5) ** 2)
        still = np.minimum(1, 1.6 * scar)  # the middle of the scar does not move
        share, motion = share * (1 - 0.45 * scar), motion * (1 - still)
    return shape, share / np.mean(share, axis=1, keepdims=True), motion


def _rv_bump(rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the share of the RV's area at each angle, (K,) of mean 1, and the two angles where the RV meets the LV."""
    upper, lower = rng.uniform(1.15, 1.6, size=2)
    x = np.where(THETA > 0, THETA / upper, THETA / lower)
    bump = np.cos(np.pi / 2 * np.clip(x, -1, 1)) ** rng.uniform(0.5, 0.95) * (1 + rng.uniform(-0.55, 0.55) * x)
    bump = np.where(np.abs(x) < 1, bump, 0.0)
    return bump / bump.mean(), (upper, -lower)


def _rigid_motion(rng: np.random.Generator, curve: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return LV centre (D, T, 2) in mm and RV direction (D, T) in radians: tilt, breath-hold shifts, sway and twist."""
    tilt = rng.uniform(-12, 12, size=2)
    breath = rng.normal(0, 0.8, size=(len(depth), 1, 2))
    sway = rng.uniform(-3.0, 3.0, size=2) * curve[:, None]
    center = (depth - 0.4)[:, None, None] * tilt + breath + sway
    twist = rng.uniform(0.03, 0.12) * (1.6 * depth[:, None] - 0.5) * curve
    angle = np.pi + rng.uniform(-0.5, 0.5) + rng.uniform(-0.3, 0.3) * depth[:, None] + twist
    return center.astype(np.float32), angle.astype(np.float32)
