"""Disease: the evidence for each of ACDC's five groups, of the reconstruction compared with that of the ground truth.

A criterion such as LV EF < 40 % has a signed distance from its threshold, in margins. The evidence for a group is the
minimum of the distances of its criteria (for RV, where one criterion is enough, the maximum). Above 0 the patient fits
the group, below 0 not. If the ground truth is within one margin of 0, the group is not counted. Otherwise the
reconstruction must be on the same side, at least one margin away; the missing distance is the loss (hinge). So the
loss is zero if reconstruction and original are equal.

Source: Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and Diagnosis,
2018 (the groups); the challenge's classification rules for borderline values: RV EF of 40 to 45 % is
undecided, which is the default margin of EFs. Regional contraction and sex, also criteria of the paper, are unknown.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.heart.measures import (
    LV_INDEX,
    RV_INDEX,
    Measured,
    ejection_fraction,
    measure,
    slice_volumes_ml,
    wall_thickness_mm,
    whole_stacks,
)
from modeling.objective import LossOptions
from modeling.prediction import Prediction
from utils.config.ranges import AboveZero, Millimetres, NotNegative
from utils.types import Batch

MEASURES = ("rv_ef", "lv_ef", "rv_edvi", "lv_edvi", "wall")  # %, %, mL/m², mL/m², mm of the thickest segment at ED


class Criterion(NamedTuple):
    """One published criterion: a measure, its threshold, and 1 for above or -1 for below the threshold."""

    measure: str
    threshold: float
    side: int


GROUPS = {
    "DCM": (Criterion("lv_ef", 40, -1), Criterion("lv_edvi", 100, 1), Criterion("wall", 12, -1)),
    "HCM": (Criterion("lv_ef", 55, 1), Criterion("wall", 15, 1)),
    "MINF": (Criterion("lv_ef", 40, -1),),
    "NOR": (
        *(Criterion("lv_ef", 50, 1), Criterion("rv_ef", 40, 1), Criterion("wall", 12, -1)),
        *(Criterion("lv_edvi", 90, -1), Criterion("rv_edvi", 100, -1)),
    ),
    "RV": (Criterion("rv_edvi", 110, 1), Criterion("rv_ef", 40, -1)),
}
ANY_CRITERION = ("RV",)


@dataclass
class Options(LossOptions):
    """Margins of the criteria.

    Args:
        ef_margin: margin of ejection fractions, in percentage points.
        volume_margin: margin of volumes indexed by body surface, in mL/m².
        wall_margin: margin of the wall thickness, in mm.
        sharpness: factor on the logits.
        margin_mm: largest distance in mm, in the plane of the slice, of counted pixels from the true heart.
    """

    weight: NotNegative = 0.1
    ef_margin: AboveZero = 5.0
    volume_margin: AboveZero = 10.0
    wall_margin: AboveZero = 1.5
    sharpness: AboveZero = 4.0
    margin_mm: Millimetres = 10.0


@dataclass
class Disease:
    """A mean over stacks of the mean over the groups; slices and incompletely labelled stacks are not counted."""

    options: Options
    needs = ("decoder", "segmenter", "key_frames", "labels", "stacks")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of one-step samples that are whole labelled stacks."""
        return self.counted(batch, one_step).sum()

    def counted(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return which samples are counted, (B,) bool."""
        return whole_stacks(batch, batch.key_labels()[1]) & one_step

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the sum over whole labelled stacks that are decoded from tokens alone."""
        options, segmenter = self.options, prediction.fixed_segmenter()
        stacks = self.counted(batch, prediction.one_step)
        if not stacks.any():
            return torch.zeros((), device=stacks.device)
        measured = measure(segmenter.logits, batch, options.sharpness, options.margin_mm)
        predicted, target, known = measures(measured, batch)
        error = hinge(self.evidence(predicted, known), self.evidence(target, known))  # (B, groups)
        return error.mean(1)[stacks].sum()

    def evidence(self, values: Tensor, known: Tensor) -> Tensor:
        """Return the evidence for each group, in margins.

        Args:
            values: (B, measures).
            known: (B, measures) bool; criteria of unknown measures are ignored; without any known criterion the
                evidence is infinite.

        Returns:
            (B, groups).
        """
        options = self.options
        margins = (options.ef_margin,) * 2 + (options.volume_margin,) * 2 + (options.wall_margin,)
        evidence = []
        for group, criteria in GROUPS.items():
            places = [MEASURES.index(criterion.measure) for criterion in criteria]
            thresholds = values.new_tensor([criterion.threshold for criterion in criteria])
            scale = values.new_tensor([c.side / margins[place] for c, place in zip(criteria, places, strict=True)])
            distance = (values[:, places] - thresholds) * scale
            if group in ANY_CRITERION:
                evidence.append(torch.where(known[:, places], distance, -torch.inf).amax(1))
            else:
                evidence.append(torch.where(known[:, places], distance, torch.inf).amin(1))
        return torch.stack(evidence, dim=1)


def measures(measured: Measured, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return the measures of reconstruction and ground truth, (B, measures) each, and which of them are known.

    Args:
        measured: masks of both at ED and ES.
        batch: the samples, for `bsa_m2`.
    """
    both = (measured.masks, measured.truth)
    ml, true_ml = (slice_volumes_ml(masks, batch.spacing_mm).sum(1) for masks in both)  # (B, 2, S)
    has_bsa = batch.bsa_m2 > 0  # false for NaN too
    bsa = torch.where(has_bsa, batch.bsa_m2, torch.ones_like(batch.bsa_m2))
    truth_at_ed, values = measured.truth[:, :, 0], []
    for masks, volumes in zip(both, (ml, true_ml), strict=True):
        ef, has_ef = ejection_fraction(volumes, true_ml)
        wall, closed = wall_thickness_mm(masks[:, :, 0], truth_at_ed, batch.spacing_mm)
        wall = torch.where(closed.unsqueeze(2), wall, torch.zeros_like(wall)).flatten(1).amax(1)
        values.append(torch.cat([100 * ef, volumes[:, 0, [RV_INDEX, LV_INDEX]] / bsa[:, None], wall[:, None]], dim=1))
    known = torch.cat([has_ef, has_bsa[:, None].expand(-1, 2), closed.any(1, keepdim=True)], dim=1)
    return values[0], values[1], known


def hinge(evidence: Tensor, truth: Tensor) -> Tensor:
    """Return the distance missing to one margin on the side of the truth; 0 if the truth is within its margin."""
    counts = truth.isfinite() & (truth.abs() >= 1)
    return torch.where(counts, (1 - truth.sign() * evidence).relu(), torch.zeros_like(truth))


def build(options: Options) -> Disease:
    """Build the loss."""
    return Disease(options)
