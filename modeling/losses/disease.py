"""Disease: the evidence for each of ACDC's five groups, of the reconstruction held against that of the truth.

A criterion such as LV EF < 40 % gives a signed distance from its threshold, in margins. A group's evidence is the
least of its criteria's distances (of RV, where one criterion is enough, the greatest): above 0 the group fits, below 0
it does not. Within one margin the truth is borderline and nothing is asked; otherwise the reconstruction has to be on
the same side, a margin away, and pays what it lacks (hinge). So the term is zero on identity.

Source: Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and Diagnosis,
2018 (the groups); the challenge's classification rules for borderline values: RV EF of 40 to 45 % tells
nothing, which is the default margin of EFs. Regional contraction and sex, by which the paper also goes, are unknown.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.heart.measures import (
    LV,
    RV,
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
    """One published criterion: a measure, its threshold, and 1 where it has to be above, -1 where below."""

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
ONE_IS_ENOUGH = ("RV",)


@dataclass
class Options(LossOptions):
    """Margins of the criteria.

    Args:
        ef_margin: of ejection fractions, in points of %.
        volume_margin: of volumes indexed by body surface, in mL/m².
        wall_margin: of the wall's thickness, in mm.
        sharpness: factor on the logits.
        margin_mm: distance from the true heart up to which pixels count, in the plane of the slice.
    """

    weight: NotNegative = 0.1
    ef_margin: AboveZero = 5.0
    volume_margin: AboveZero = 10.0
    wall_margin: AboveZero = 1.5
    sharpness: AboveZero = 4.0
    margin_mm: Millimetres = 10.0


@dataclass
class Disease:
    """A mean over stacks of the mean over the groups; on single slices, or without a whole truth, nothing counts."""

    options: Options
    needs = ("decoder", "segmenter", "key_frames", "labels", "stacks")

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """How many one-step samples are whole labelled stacks."""
        return self.counted(batch, one_step).sum()

    def counted(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Which samples count, (B,) bool."""
        return whole_stacks(batch, batch.key_labels()[1]) & one_step

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over whole labelled stacks that are decoded from tokens alone."""
        options, segmenter = self.options, prediction.fixed_segmenter()
        stacks = self.counted(batch, prediction.one_step)
        if not stacks.any():
            return torch.zeros((), device=stacks.device)
        measured = measure(segmenter.logits, batch, options.sharpness, options.margin_mm)
        predicted, target, known = measures(measured, batch)
        error = hinge(self.evidence(predicted, known), self.evidence(target, known))  # (B, groups)
        return error.mean(1)[stacks].sum()

    def evidence(self, values: Tensor, known: Tensor) -> Tensor:
        """Evidence for each group, in margins.

        Args:
            values: (B, measures).
            known: (B, measures) bool; criteria of unknown measures drop out, and without any the evidence is infinite.

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
            if group in ONE_IS_ENOUGH:
                evidence.append(torch.where(known[:, places], distance, -torch.inf).amax(1))
            else:
                evidence.append(torch.where(known[:, places], distance, torch.inf).amin(1))
        return torch.stack(evidence, dim=1)


def measures(measured: Measured, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Measures of the reconstruction and of the truth, (B, measures) each, and which of them are known.

    Args:
        measured: masks of both at ED and ES.
        batch: of the same samples; `bsa_m2` is used.
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
        values.append(torch.cat([100 * ef, volumes[:, 0, [RV, LV]] / bsa[:, None], wall[:, None]], dim=1))
    known = torch.cat([has_ef, has_bsa[:, None].expand(-1, 2), closed.any(1, keepdim=True)], dim=1)
    return values[0], values[1], known


def hinge(evidence: Tensor, truth: Tensor) -> Tensor:
    """Distance of the evidence from one margin on the truth's side; 0 where the truth is within its margin."""
    asked = truth.isfinite() & (truth.abs() >= 1)
    return torch.where(asked, (1 - truth.sign() * evidence).relu(), torch.zeros_like(truth))


def build(options: Options) -> Disease:
    """Build the loss."""
    return Disease(options)
