"""CineCase: one patient's cine as every data source yields it.

Axes: H height, W width, D slices (in stored order), T phases of the cardiac cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LABELS = {0: "background", 1: "RV", 2: "MYO", 3: "LV"}


@dataclass(frozen=True)
class CineCase:
    """One patient's cine with what is known about it; checked when it is made.

    Args:
        patient: identifier, e.g. `patient001`.
        cine: (H, W, D, T) native stored integers; float32 only where the source is really fractional.
        masks: zero-based phase -> (H, W, D) uint8 labels: 0 background, 1 RV, 2 MYO, 3 LV.
        spacing_mm: (along H, along W, between slices), from the header's zooms.
        affine: (4, 4) voxel -> world; its columns are as long as the voxels (spacing_mm).
        ed: zero-based phase of end-diastole (end of filling), None where unknown.
        es: zero-based phase of end-systole (end of contraction), None where unknown.
        group: diagnosis, e.g. `NOR`, None where unknown.
        height_cm: body height, None where unknown.
        weight_kg: body weight, None where unknown.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
        source_hash: hash of the source files' bytes.

    Raises:
        ValueError: naming the patient and the field at fault.
    """

    patient: str
    cine: np.ndarray
    masks: dict[int, np.ndarray]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    ed: int | None
    es: int | None
    group: str | None
    height_cm: float | None
    weight_kg: float | None
    slope: float
    intercept: float
    source_hash: str

    def __post_init__(self) -> None:
        if not self.patient:
            raise ValueError("a case has an empty patient name; give each case its identifier")
        self._check_cine()
        self._check_masks()
        if len(self.spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in self.spacing_mm):
            self._fail(f"spacing_mm is {self.spacing_mm}, expected three lengths in mm; fix the header")
        if np.shape(self.affine) != (4, 4) or not np.isfinite(self.affine).all():
            self._fail(f"affine has shape {np.shape(self.affine)}, expected a finite (4, 4) matrix; fix the header")
        if not (np.isfinite(self.slope) and self.slope > 0 and np.isfinite(self.intercept)):
            self._fail(f"slope {self.slope} and intercept {self.intercept} must be finite and the slope positive")

    def _check_cine(self) -> None:
        cine = self.cine
        if cine.ndim != 4 or 0 in cine.shape:
            self._fail(f"the cine has shape {cine.shape}, expected (H, W, D, T) with none of them 0")
        if cine.dtype.kind not in "iuf":
            self._fail(f"the cine has dtype {cine.dtype}, expected integers or floats")
        if cine.dtype.kind == "f" and not np.isfinite(cine).all():
            count = int(cine.size - np.isfinite(cine).sum())
            self._fail(f"the cine holds {count} NaN or infinite voxels; repair the file or leave the patient out")
        for name, phase in (("ed", self.ed), ("es", self.es)):
            if phase is not None and not 0 <= phase < cine.shape[3]:
                self._fail(f"{name} is phase {phase} (zero-based), but the cine has {cine.shape[3]} phases")

    def _check_masks(self) -> None:
        height, width, slices, phases = self.cine.shape
        for phase, mask in self.masks.items():
            if not 0 <= phase < phases:
                self._fail(f"a mask belongs to phase {phase} (zero-based), but the cine has {phases} phases")
            if mask.shape != (height, width, slices):
                self._fail(
                    f"the mask of phase {phase} has shape {mask.shape}, but the image has {(height, width, slices)}; "
                    "re-download the case or leave it out"
                )
            if mask.dtype != np.uint8:
                self._fail(f"the mask of phase {phase} has dtype {mask.dtype}, expected uint8")
            if mask.max(initial=0) > max(LABELS):
                found = sorted(int(v) for v in np.unique(mask) if v not in LABELS)
                self._fail(f"the mask of phase {phase} holds labels {found}, expected 0, 1 (RV), 2 (MYO), 3 (LV)")

    def _fail(self, message: str) -> None:
        raise ValueError(f"{self.patient}: {message}")
