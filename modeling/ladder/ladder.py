"""The rate ladder: residual tokens of a cine at any rate, on native pixels of any size.

    cine ─► temporal basis ─► components ─► wavelet ─► quantizer, one step for all ─► symbols ─► tokens
    tokens ─► symbols * step ─► inverse wavelet ─► refinement ─► components @ basis ─► cine

The step alone sets the rate: a fine step gives many bytes and a high PSNR. The context model predicts the symbols. It
changes their cost in the file, not the decoded cine.

Axes: B batch, D slices, T phases, R components, H and W of the field, h and w of a band.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modeling.flow import SamplerOptions
from modeling.ladder import basis, wavelet
from modeling.ladder.context import Symbols, energies_of
from modeling.ladder.integer import IntegerContext
from modeling.ladder.network import ContextConfig, ContextModel
from modeling.ladder.quantizer import OFFSET, nearest_index, quantize, step_size
from modeling.ladder.rate import sampled_bits
from modeling.ladder.region import Region, band_weights
from modeling.ladder.search import searched_symbols
from modeling.ladder.session import SymbolCoder
from utils.config import registry
from utils.config.ranges import Positive, Range
from utils.ladder.pyramid import to_levels
from utils.layout import LadderLayout
from utils.seeding import stable_seed
from utils.types import Batch

MAX_RANK = 32  # components; later ones are below the noise
PREVIEW_STEP = 0.2


@dataclass
class LadderConfig:
    """Options of the ladder.

    Args:
        context: of the context model.
        refinement: {"name": a file of modeling/ladder/refinement, ...its options}.
        finest_step: smallest step drawn in training.
        coarsest_step: largest step drawn in training.
        draws: number of steps drawn for each sample.
        slices: number of slices of a sample that are used for each draw.
        positions: about how many positions of each band are used for each draw.
        search: train on the symbols after the search with the context model, which are those of a file; slower.
    """

    context: ContextConfig = field(default_factory=ContextConfig)
    refinement: dict[str, Any] = field(default_factory=lambda: {"name": "none"})
    finest_step: Annotated[float, Range(0.001, 10)] = 0.025
    coarsest_step: Annotated[float, Range(0.001, 10)] = 1.2
    draws: Positive = 2
    slices: Positive = 3
    positions: Positive = 3000
    search: bool = False


class Analysis(NamedTuple):
    """A cine before quantization.

    Args:
        ids: (T, R) integers of the temporal basis.
        basis: (T, R) float32.
        pyramid: coefficients (D, R, h, w) of each band, times the weights.
        region: with finer steps; None for the same step everywhere.
    """

    ids: np.ndarray
    basis: Tensor
    pyramid: wavelet.Pyramid
    region: Region | None = None


class LadderOutput(NamedTuple):
    """Output of a training pass.

    Args:
        bits: (B, draws) estimated bits of a sample; 0 if the context model does not train.
        steps: (B, draws) size of the step.
        error: (B, draws) squared error of the refined components as a fraction of that before; 1 if the refinement
            does not train.
    """

    bits: Tensor
    steps: Tensor
    error: Tensor


class Ladder(nn.Module):
    """The ladder.

    Args:
        config: its options.
    """

    def __init__(self, config: LadderConfig) -> None:
        super().__init__()
        self.config, self.layout = config, LadderLayout(0, 1)  # without base tokens
        self.context = ContextModel(config.context)
        chosen = config.refinement
        self.refinement: Any = registry.build(
            "modeling.ladder.refinement", chosen.get("name", "none"), chosen, "model.ladder.refinement"
        )

    def coder(self) -> SymbolCoder:
        """Return the context model in integers, made from the current weights."""
        return SymbolCoder(IntegerContext(self.context))

    def check_precision(self) -> None:
        """Raise a ValueError for weights of another precision, in which the context model is not exact."""
        kinds = {str(parameter.dtype) for parameter in self.parameters()}
        if kinds != {"torch.float32"}:
            raise ValueError(
                f"the ladder has weights of {', '.join(sorted(kinds))}: it needs float32; cast with .float()"
            )

    def analyse(self, cine: Tensor, region: Region | None = None) -> Analysis:
        """Transform a cine (D, T, H, W) in [0, 1]."""
        ids = basis.basis_ids(cine.float().cpu().numpy(), min(cine.shape[1], MAX_RANK))
        vectors = torch.from_numpy(basis.orthonormal(ids)).float().to(cine.device)
        components = torch.einsum("dthw,tr->drhw", cine.float(), vectors)
        return Analysis(ids, vectors, weighted(wavelet.forward(components), region), region)

    def synthesise(
        self,
        symbols: Symbols,
        vectors: Tensor,
        step_index: int,
        region: Region | None = None,
        options: SamplerOptions | None = None,
    ) -> Tensor:
        """Decode symbols to a cine (D, T, H, W) in [0, 1].

        Args:
            symbols: of the slices.
            vectors: basis (T, R).
            step_index: of the quantizer.
            region: with finer steps.
            options: of a sample, by a refinement that can sample; None for the decode of highest PSNR.
        """
        components = self.refine(dequantized(symbols, step_index, region), step_index, options)
        return torch.einsum("drhw,tr->dthw", components, vectors).clamp(0, 1)

    def refine(self, components: Tensor, step_index: int, options: SamplerOptions | None = None) -> Tensor:
        """Refine decoded components (D, R, H, W), slice by slice."""
        if self.refinement is None:
            return components
        step = step_size(step_index)
        return torch.cat([self.refinement(part, step, step_index, options) for part in components.split(1)])

    def forward(self, batch: Batch) -> tuple[LadderOutput, Tensor | None]:
        """Run a training pass on stacks or slices, always in float32, also if the run has another precision.

        Steps and slices are functions of the seed of each sample.

        Returns:
            The output for the losses; and, in a pass without gradients, the batch decoded at one middle step.
        """
        with torch.autocast(batch.image.device.type, enabled=False):
            decoded = None if torch.is_grad_enabled() else self.preview(batch)
            return self._train(batch), decoded

    def _train(self, batch: Batch) -> LadderOutput:
        context = IntegerContext(self.context) if self.config.search else None
        rows = []
        for seed, image, valid in zip(batch.sample_seed.tolist(), batch.image, batch.valid(), strict=True):
            with torch.no_grad():
                pyramid = self.analyse(image[valid, :, 0]).pyramid
            rows.append(
                [self._draw(pyramid, context, stable_seed(seed, f"ladder {n}")) for n in range(self.config.draws)]
            )
        columns = ([[draw[i] for draw in row] for row in rows] for i in range(3))
        return LadderOutput(*(torch.stack([torch.stack(row) for row in column]) for column in columns))

    @torch.no_grad()
    def preview(self, batch: Batch) -> Tensor:
        """Decode a batch at one middle step, (B, D, T, 1, H, W); without the search of symbols."""
        index, decoded = nearest_index(PREVIEW_STEP), torch.zeros_like(batch.image)
        for b, valid in enumerate(batch.valid()):
            analysis = self.analyse(batch.image[b, valid, :, 0])
            symbols = [[quantize(band, step_size(index)) for band in level] for level in analysis.pyramid]
            decoded[b, valid, :, 0] = self.synthesise(symbols, analysis.basis, index)
        return decoded

    def _draw(
        self, pyramid: wavelet.Pyramid, context: IntegerContext | None, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bits, step and remaining error of one draw of one sample; with a context, of searched symbols."""
        config, (slices, device) = self.config, (len(pyramid[0][0]), pyramid[0][0].device)
        random = torch.Generator().manual_seed(seed)
        share, offset = torch.rand(2, generator=random).tolist()
        octaves = math.log2(config.coarsest_step / config.finest_step)
        step_index = nearest_index(config.finest_step * 2 ** (share * octaves))
        step = step_size(step_index)
        with torch.no_grad():
            chosen = torch.randperm(slices, generator=random)[: config.slices].to(device)
            exact = [[band[chosen] for band in level] for level in pyramid]
            if context is not None:
                symbols = searched_symbols(context, exact, step_index)
                energies = energies_of(symbols).to(device)
            else:
                offset = OFFSET - 0.1 * offset  # the search of a file rounds as if the offset were smaller
                volume = [[quantize(band, step, offset) for band in level] for level in pyramid]
                energies = energies_of(volume).to(device)
                symbols = [[band[chosen] for band in level] for level in volume]
        bits, error = torch.zeros((), device=device), torch.ones((), device=device)
        if any(p.requires_grad for p in self.context.parameters()) or not torch.is_grad_enabled():
            bits = (
                slices / len(chosen) * sampled_bits(self.context, symbols, step_index, energies, config.positions, seed)
            )
        if self.refinement is not None and any(p.requires_grad for p in self.refinement.parameters()):
            decoded = dequantized(symbols, step_index)
            original = wavelet.inverse(exact)
            error = self.refinement.remaining(decoded, original, step, step_index, seed)
        return bits, torch.tensor(step, device=device), error


def dequantized(symbols: Symbols, step_index: int, region: Region | None = None) -> Tensor:
    """Decode symbols to components (D, R, H, W)."""
    step = step_size(step_index)
    return wavelet.inverse(weighted([[band.float() * step for band in level] for level in symbols], region, -1))


def weighted(pyramid: wavelet.Pyramid, region: Region | None, power: int = 1) -> wavelet.Pyramid:
    """Multiply coefficients by the weights of a region to a power; without a region, return them as they are."""
    if region is None:
        return pyramid
    bands = [band for level in pyramid for band in level]
    height, width = _size(pyramid)
    weights = [band for level in band_weights(region, height, width, bands[0].device) for band in level]
    scaled = [band * weight**power for band, weight in zip(bands, weights, strict=True)]
    return to_levels(scaled)


def _size(pyramid: wavelet.Pyramid) -> tuple[int, int]:
    """(H, W) of the image of a pyramid."""
    if len(pyramid) == 1:
        return pyramid[0][0].shape[-2], pyramid[0][0].shape[-1]
    low_high, high_low, _ = pyramid[-1]  # a level has ceil and floor of half the rows and columns
    return low_high.shape[-2] + high_low.shape[-2], low_high.shape[-1] + high_low.shape[-1]
