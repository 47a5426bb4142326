"""Cycle: the change of the reconstruction over the cardiac cycle equals that of the original.

Three parts, of e = x̂ - x at the T phases p_k of a sample, neighbours on the circle with gaps g_k = p_(k+1) - p_k mod 1:

    difference   |e_(k+1) - e_k|²                                     also the step from the last phase to the first
    fourier      sum over m = 1..M of 2 |sum over k of w_k e_k exp(-2 pi i m p_k)|²,  w_k = (g_(k-1) + g_k) / 2
    curve        Huber of log(1 + mL) of RV, MYO and LV, segmented on x̂ against segmented on x; no labels are needed

A sample may contain a part of the cycle with uneven gaps. Each step counts once, for any gap above 0; a step of gap 0
(a repeated phase, or the only phase) is not counted. The quadrature weight w_k is the fraction of the cycle around a
phase. M is limited to below T / 2, because higher harmonics alias.

By Parseval 2 |c_m|² is the power of harmonic m: the second part is the slow part of the squared error.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.heart.measures import slice_volumes_ml, soft_masks
from modeling.heart.region import near
from modeling.objective import LossOptions
from modeling.prediction import NEEDS_DECODER, Prediction, require
from utils.config.ranges import AboveZero, Count, Millimetres, NotNegative, Range
from utils.types import Batch


@dataclass
class Options(LossOptions):
    """Options of the three parts.

    Args:
        difference: weight of the match of phase differences; 0 leaves the part out.
        fourier: weight of the match of low harmonics; 0 leaves the part out.
        harmonics: M, number of harmonics.
        curve: weight of the match of volume curves, which segments every frame twice; 0 leaves the part out.
        delta: threshold of the Huber loss of the curves, in log(1 + mL).
        sharpness: factor on the logits.
        margin_mm: largest distance in mm, in the plane, of counted pixels from the segmented heart of the original.
        curve_warmup_steps: optimizer step from which on volume curves are compared.
    """

    difference: NotNegative = 1.0
    fourier: NotNegative = 1.0
    harmonics: Annotated[int, Range(1, 100)] = 3
    curve: NotNegative = 0.0
    delta: AboveZero = 0.1
    sharpness: AboveZero = 4.0
    margin_mm: Millimetres = 10.0
    curve_warmup_steps: Count = 0


@dataclass
class Cycle:
    """A mean over pixels of the field and steps of one-step samples; fourier and curve errors are added to each."""

    options: Options

    @property
    def needs(self) -> tuple[str, ...]:
        """Required parts of the recipe; only the part `curve` needs a segmenter."""
        return ("decoder", "segmenter", "key_frames") if self.options.curve else ("decoder",)

    def count(self, batch: Batch, one_step: Tensor) -> Tensor:
        """Return the number of pixels in the field, times the steps of one-step samples."""
        return (batch.field.sum((1, 2, 3)) * steps_of(batch, one_step)[1].sum(1)).sum()

    def __call__(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Sum over pixels and steps of one-step samples."""
        options, error = self.options, prediction.error()
        gaps, steps = steps_of(batch, prediction.one_step)
        value = options.difference * (error.roll(-1, 2) - error).square()
        if options.fourier:
            value = value + options.fourier * harmonic_power(error, batch.phase, gaps, options.harmonics)[:, :, None]
        rows = steps.any(1).nonzero()[:, 0]
        if options.curve and prediction.step >= options.curve_warmup_steps and len(rows):
            curve = self.curve_error(prediction, batch, rows)  # (rows, D)
            everywhere = curve.new_zeros(len(steps), curve.shape[1]).index_copy(0, rows, curve)
            value = value + options.curve * everywhere[:, :, None, None, None, None]
        counted = batch.field[:, :, None, None] & steps[:, None, :, None, None, None]  # (B, D, T, 1, H, W)
        return torch.where(counted.expand_as(value), value, torch.zeros_like(value)).sum()

    def curve_error(self, prediction: Prediction, batch: Batch, rows: Tensor) -> Tensor:  # counted samples
        """Return the error of the volume curves in each slice, a mean over phases and structures, (rows, D)."""
        options, segmenter = self.options, prediction.fixed_segmenter()
        reconstruction = require(prediction.reconstruction, NEEDS_DECODER)[rows]  # (rows, D, T, C, H, W)
        with torch.no_grad():
            original = segmenter.segment(prediction.image[rows]).logits
        heart = near(original.argmax(3) > 0, options.margin_mm, batch, rows)
        region = heart & batch.field[rows].unsqueeze(2)
        v, truth = (
            slice_volumes_ml(soft_masks(logits, region, options.sharpness), batch.spacing_mm[rows])
            for logits in (segmenter.segment(reconstruction).logits, original)
        )
        return F.huber_loss(v.log1p(), truth.log1p(), delta=options.delta, reduction="none").mean((2, 3))


def steps_of(batch: Batch, one_step: Tensor) -> tuple[Tensor, Tensor]:
    """Return gaps from each phase to the next, (B, T) in cycles, and which steps are counted, (B, T) bool."""
    gaps = (batch.phase.roll(-1, 1) - batch.phase) % 1.0
    return gaps, (gaps > 0) & one_step[:, None]


def harmonic_power(error: Tensor, phase: Tensor, gaps: Tensor, harmonics: int) -> Tensor:
    """Return the power of the low harmonics of an error over the cycle, (B, D, C, H, W).

    Args:
        error: (B, D, T, C, H, W).
        phase: (B, T) in [0, 1).
        gaps: (B, T) from each phase to the next; their sum is 1, or 0 for one phase.
        harmonics: number of harmonics from the first on, limited to those that T phases resolve.
    """
    count = min(harmonics, (phase.shape[1] - 1) // 2)
    share = (gaps + gaps.roll(1, 1)) / 2
    order = torch.arange(1, count + 1, device=phase.device)
    angle = 2 * math.pi * order[:, None] * phase[:, None]  # (B, M, T)
    waves = torch.cat([angle.cos(), angle.sin()], dim=1) * share[:, None]  # (B, 2 M, T)
    return 2 * torch.einsum("bdtchw,bmt->bmdchw", error, waves).square().sum(1)


def build(options: Options) -> Cycle:
    """Build the loss.

    Raises:
        ValueError: when all weights are 0.
    """
    parts = {name: getattr(options, name) for name in ("difference", "fourier", "curve")}
    if not any(parts.values()):
        raise ValueError(f"losses.cycle has the parts {parts}: expected weights that are not all 0")
    return Cycle(options)
