"""CineCase: one patient's cine, as every data source returns it, and the rules for refusing a case.

Axes: H height, W width, D slices (in stored order), T phases of the cardiac cycle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from data.window import real_values
from utils.config.ranges import Range
from utils.labels import LABELS

TIME_UNITS = {0: "unknown", 8: "s", 16: "ms", 24: "us"}  # codes of NIfTI
LENGTH_UNITS = {0: "unknown", 1: "m", 2: "mm", 3: "um"}  # codes of NIfTI
MM = 2
SPACING_MM = Range(1e-4, 1e4)
SLOPE = Range(above=0, below=1e30)
INTERCEPT = Range(above=-1e30, below=1e30)
STORED_TYPES = (
    "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64", "uint64",
)  # fmt: skip

RULES = {
    "bad_name": "The patient's name is empty, longer than 64, or holds other characters than letters, digits, - and _.",
    "missing_file": "A file that the case needs is missing.",
    "damaged_file": "A file is truncated or damaged.",
    "not_nifti": "A file is not NIfTI, but a Git LFS pointer, a web page, an archive, DICOM or the like.",
    "wrong_type": "Voxels are not plain numbers, but colours, complex numbers or the like.",
    "wrong_axes": "A cine is not (H, W, D, T), an image or mask of one phase is not (H, W, D), or an axis is empty.",
    "not_finite": "Voxels are NaN or infinite.",
    "too_small": "Frames are smaller than 11 x 11 pixels, the window of SSIM, so SSIM cannot be computed.",
    "empty_frame": "A frame of the cine has one constant value.",
    "empty_window": "The volume has no intensity window, because almost all voxels have one value.",
    "bad_spacing": "Spacing or unit of length is invalid, or the affine is not a finite (4, 4) matrix.",
    "bad_scale": "The slope is not positive, or slope or intercept is not finite, or is 1e30 or more.",
    "no_key_frame": "ED or ES is needed but not given, or the given value is not the number of a frame.",
    "same_key_frames": "ED and ES are the same phase.",
    "key_frame_outside": "ED or ES lies beyond the last phase of the cine.",
    "phase_count": "The number of phases in Info.cfg is invalid or differs from that of the cine.",
    "frame_shapes": "The images of ED and ES differ in shape.",
    "other_grid": "By their headers, a mask and its image, or the images of ED and ES, lie on different grids.",
    "mask_shape": "A mask and its image differ in shape, or the mask belongs to a phase that does not exist.",
    "mask_labels": "A mask holds values other than the labels 0 to 3.",
}


class CaseRefused(ValueError):  # noqa: N818 - names what happened to the case
    """A case that cannot be used; its `str()` is `patient: message`.

    Args:
        rule: one of RULES.
        patient: name of the patient.
        message: the file or field, the value found, the value expected and what to do.
    Raises:
        KeyError: for a rule that is not in RULES.
    """

    def __init__(self, rule: str, patient: str, message: str) -> None:
        if rule not in RULES:
            raise KeyError(f"{rule!r} is not in RULES; add it there with a sentence")
        super().__init__(rule, patient, message)  # all three, so that it can be sent between processes
        self.rule, self.patient, self.message = rule, patient, message

    def __str__(self) -> str:
        return f"{self.patient}: {self.message}"


@dataclass(frozen=True)
class CineCase:
    """One patient's cine and its metadata; checked on creation.

    Args:
        patient: identifier, e.g. `patient001`; letters, digits, - and _.
        cine: (H, W, D, T) native stored integers; float32 only if the source has fractional values.
        masks: zero-based phase -> (H, W, D) uint8 labels: 0 background, 1 RV, 2 MYO, 3 LV.
        spacing_mm: (along H, along W, between slices), from the header's zooms.
        affine: (4, 4) voxel -> world; the length of its columns is spacing_mm.
        ed: zero-based phase of end-diastole (end of filling), None where unknown.
        es: zero-based phase of end-systole (end of contraction), None where unknown.
        group: diagnosis, e.g. `NOR`, None where unknown.
        height_cm: body height, None where unknown.
        weight_kg: body weight, None where unknown.
        slope: real value = stored * slope + intercept.
        intercept: see slope.
        source_hash: hash of the source files' bytes.
        time_step: fourth zoom of the source's header, 0 where unknown; in ACDC it is no usable time.
        time_unit: NIfTI's code of its unit: 0 unknown, 8 s, 16 ms, 24 us.
        stored_type: one of STORED_TYPES, the data type of the source's voxels; None if it is that of `cine`.
        length_unit: NIfTI's code of the source's unit of length, one of LENGTH_UNITS; spacing and affine are in mm.

    Raises:
        CaseRefused: with the rule, the patient and the field.
    """

    patient: str
    cine: np.ndarray = field(repr=False)
    masks: dict[int, np.ndarray] = field(repr=False)
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray = field(repr=False)
    ed: int | None
    es: int | None
    group: str | None
    height_cm: float | None
    weight_kg: float | None
    slope: float
    intercept: float
    source_hash: str
    time_step: float = 0.0
    time_unit: int = 0
    stored_type: str | None = None
    length_unit: int = MM

    def real(self, part: tuple[slice, ...] = ()) -> np.ndarray:
        """Real values (H, W, D, T) of the cine, or of a part given by slices; see data/window.py."""
        return real_values(self.cine[part], self.slope, self.intercept)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.patient):
            self._refuse("bad_name", f"the patient name is {self.patient!r}, expected 1 to 64 letters, digits, - and _")
        self._check_cine()
        self._check_key_frames()
        self._check_masks()
        if len(self.spacing_mm) != 3 or not all(edge in SPACING_MM for edge in self.spacing_mm):
            expected = f"expected three lengths of {SPACING_MM.least:g} to {SPACING_MM.most:g} mm"
            self._refuse("bad_spacing", f"spacing_mm is {self.spacing_mm}, {expected}; fix the header")
        if np.shape(self.affine) != (4, 4) or not np.isfinite(self.affine).all():
            shape = np.shape(self.affine)
            self._refuse("bad_spacing", f"affine has shape {shape}, expected a finite (4, 4) matrix; fix the header")
        if self.slope not in SLOPE or self.intercept not in INTERCEPT:
            scale = f"slope {self.slope} and intercept {self.intercept}"
            self._refuse("bad_scale", f"{scale}: the slope must be {SLOPE}, the intercept {INTERCEPT}; fix the header")

    def _check_cine(self) -> None:
        cine = self.cine
        if cine.ndim != 4 or 0 in cine.shape:
            self._refuse("wrong_axes", f"the cine has shape {cine.shape}, expected (H, W, D, T) with none of them 0")
        if cine.dtype.kind not in "iuf":
            self._refuse("wrong_type", f"the cine has dtype {cine.dtype}, expected integers or floats")
        if cine.dtype.kind == "f" and (count := cine.size - int(np.isfinite(cine).sum())):
            message = f"the cine holds {count} NaN or infinite voxels; repair the file or leave the patient out"
            self._refuse("not_finite", message)

    def _check_key_frames(self) -> None:
        phases = self.cine.shape[3]
        for name, phase in (("ed", self.ed), ("es", self.es)):
            if phase is not None and not 0 <= phase < phases:
                message = f"{name} is phase {phase} (zero-based), but the cine has {phases} phases; correct it"
                self._refuse("key_frame_outside", message)
        if self.ed is not None and self.ed == self.es:
            self._refuse("same_key_frames", f"ed and es are both phase {self.ed} (zero-based), they must differ")

    def _check_masks(self) -> None:
        height, width, slices, phases = self.cine.shape
        for phase, mask in self.masks.items():
            if not 0 <= phase < phases:
                message = f"a mask belongs to phase {phase} (zero-based), but the cine has {phases} phases"
                self._refuse("mask_shape", message)
            if mask.shape != (height, width, slices):
                self._refuse(
                    "mask_shape",
                    f"the mask of phase {phase} has shape {mask.shape}, but the image has {(height, width, slices)}; "
                    "re-download the case or leave it out",
                )
            if mask.dtype != np.uint8:
                self._refuse("mask_labels", f"the mask of phase {phase} has dtype {mask.dtype}, expected uint8")
            if mask.max(initial=0) > max(LABELS):
                unknown = sorted(int(v) for v in np.unique(mask) if v not in LABELS)
                message = f"the mask of phase {phase} holds labels {unknown}, expected 0, 1 (RV), 2 (MYO), 3 (LV)"
                self._refuse("mask_labels", message)

    def _refuse(self, rule: str, message: str) -> NoReturn:
        raise CaseRefused(rule, self.patient, message)
