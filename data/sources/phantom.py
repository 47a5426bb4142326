"""Synthetic short-axis cardiac cines with exactly known volumes, for tests, demos and use without patient data.

A phantom looks like a cine (a beating heart, a chest around it, the noise of a scanner), but it is not a patient:
results do not transfer to patients. A phantom is a function of the options, the seed and the patient's number.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np

from data.case import CineCase
from data.phantom.chest import Chest, make_grid
from data.phantom.heart import GROUPS, Heart, make_heart
from data.phantom.painter import HeartPainter
from data.phantom.scanner import make_scanner
from utils.config.ranges import AboveZero, BelowOne, Range, Seed

FIELD_MM = 150.0  # the smallest field of view that holds a heart
HEART_TRAVEL_MM = 16.0  # largest distance of the LV centre from its mean position, by tilt, breathing and beating


@dataclass(frozen=True)
class Options:
    """Options of a cohort.

    Args:
        patients: number of patients, named patient001, patient002, ...
        size: H = W in pixels.
        spacing_mm: mean pixel size.
        spacing_jitter: largest difference of a patient's spacing, as a fraction of spacing_mm.
        slices: D of every stack, 1 to 40.
        phases: T of every cine, 2 to 200.
        seed: random seed of the cohort.
        noise_percent_low, noise_percent_high: range of the noise, in % of the blood's signal.
    """

    patients: Annotated[int, Range(1, 1_000_000)] = 100
    size: Annotated[int, Range(16, 1024)] = 128
    spacing_mm: AboveZero = 1.5
    spacing_jitter: BelowOne = 0.2
    slices: Annotated[int, Range(1, 40)] = 10
    phases: Annotated[int, Range(2, 200)] = 20
    seed: Seed = 0
    noise_percent_low: AboveZero = 0.5
    noise_percent_high: AboveZero = 4.0

    def __post_init__(self) -> None:
        if self.noise_percent_low > self.noise_percent_high:
            span = f"{self.noise_percent_low} to {self.noise_percent_high}"
            raise ValueError(f"the noise is {span} %, expected noise_percent_low <= noise_percent_high")
        field = self.size * self.spacing_mm * (1 - self.spacing_jitter)
        if field < FIELD_MM:
            raise ValueError(
                f"size {self.size} at spacing_mm {self.spacing_mm} (jitter {self.spacing_jitter}) gives a "
                f"field of {field:.0f} mm, but a heart needs {FIELD_MM:.0f} mm; increase size or spacing_mm"
            )


class PhantomSource:
    """The cohort that the options describe; each patient is generated on demand."""

    name, modality = "phantom", "4d_mri"

    def __init__(self, options: Options) -> None:
        self.options = options

    def patients(self) -> list[str]:
        """Names of all patients, in order."""
        return [f"patient{n:03d}" for n in range(1, self.options.patients + 1)]

    def unread_files(self) -> dict[str, str]:
        """Always empty: phantoms are generated, not read."""
        return {}

    def group(self, patient: str) -> str:
        """Diagnosis; patients are assigned to the groups in rotation."""
        return list(GROUPS)[(self._number(patient) - 1) % len(GROUPS)]

    def held_out(self, patient: str) -> bool:
        """Always False: a phantom cohort has no test set."""
        return False

    def source_hash(self, patient: str) -> str:
        """blake2b over the options and the patient's name, which define the patient."""
        options = {**asdict(self.options), "patients": None}  # a larger cohort has the same first patients
        return hashlib.blake2b(f"{sorted(options.items())} {patient}".encode(), digest_size=16).hexdigest()

    def truth(self, patient: str) -> dict[str, float | str]:
        """Exact volumes in mL of RV, MYO and LV at ED and ES, the EFs in %, and the group; generates no image."""
        heart, _ = self._heart(self._number(patient))
        volumes = heart.volumes_ml()
        truth: dict[str, float | str] = {"group": heart.group}
        for name, curve in volumes.items():
            truth[f"{name}_ED_ml"], truth[f"{name}_ES_ml"] = float(curve[heart.ed]), float(curve[heart.es])
        for name in ("LV", "RV"):
            ed, es = volumes[name][heart.ed], volumes[name][heart.es]
            truth[f"{name}_EF_percent"] = float(100 * (ed - es) / ed)
        return truth

    def volume_curves_ml(self, patient: str) -> dict[str, np.ndarray]:
        """Exact volumes of RV, MYO and LV over the cycle, each (T,) in mL."""
        return self._heart(self._number(patient))[0].volumes_ml()

    def load(self, patient: str) -> CineCase:
        """Generate one patient.

        Raises:
            ValueError: for a name that is not in `patients()`.
        """
        o = self.options
        number = self._number(patient)
        heart, spacing = self._heart(number)
        rng = np.random.default_rng([o.seed, number, 1])
        grid = make_grid(rng, o.size, spacing, free_mm=o.size * spacing / 2 - float(heart.sac.max()) - HEART_TRAVEL_MM)
        chest = Chest(rng, grid)
        painter = HeartPainter(rng, grid, heart, chest.signal)
        scanner = make_scanner(rng, o.size, (o.noise_percent_low, o.noise_percent_high))
        images = np.empty((o.slices, o.phases, o.size, o.size), np.float32)
        masks = np.empty((2, o.slices, o.size, o.size), np.uint8)
        for z in range(o.slices):
            depth_mm = (z - (o.slices - 1) / 2) * heart.thickness_mm
            images[z] = scanner.acquire(rng, painter.paint(chest.paint(depth_mm), z))
            masks[:, z] = painter.masks(z, [heart.ed, heart.es])
        cine = np.ascontiguousarray(scanner.store(images).transpose(2, 3, 0, 1))
        zooms = (spacing, spacing, heart.thickness_mm)
        return CineCase(
            patient=patient,
            cine=cine,
            masks={p: np.moveaxis(m, 0, -1).copy() for p, m in zip((heart.ed, heart.es), masks, strict=True)},
            spacing_mm=zooms,
            affine=np.diag([*zooms, 1.0]),
            ed=heart.ed,
            es=heart.es,
            group=heart.group,
            height_cm=float(rng.integers(150, 196)),
            weight_kg=float(rng.integers(48, 116)),
            slope=1.0,
            intercept=0.0,
            source_hash=self.source_hash(patient),
        )

    def _number(self, patient: str) -> int:
        digits = patient.removeprefix("patient")
        number = int(digits) if digits.isascii() and digits.isdigit() else 0
        if patient != f"patient{number:03d}" or not 1 <= number <= self.options.patients:
            raise ValueError(f"phantom: no patient {patient!r}; expected patient001 to {self.patients()[-1]}")
        return number

    def _heart(self, number: int) -> tuple[Heart, float]:
        """The heart of a patient and its pixel size in mm."""
        o = self.options
        rng = np.random.default_rng([o.seed, number, 0])
        spacing = round(o.spacing_mm * (1 + o.spacing_jitter * rng.uniform(-1, 1)), 4)
        group = self.group(f"patient{number:03d}")
        reach = o.size * spacing / 2 - HEART_TRAVEL_MM
        return make_heart(rng, group, o.slices, o.phases, reach), spacing


def build(options: Options) -> PhantomSource:
    """The source that the options describe."""
    return PhantomSource(options)
