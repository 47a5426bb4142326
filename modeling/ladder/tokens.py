"""A cine to tokens of the layout `ladder` and back, at a chosen rate, quality or step.

Axes: B batch, D slices, T phases, R components, H and W of the field, h and w of a band.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeling.flow import SamplerOptions
from modeling.ladder.basis import LIMIT, orthonormal
from modeling.ladder.context import Symbols
from modeling.ladder.ladder import Analysis, Ladder
from modeling.ladder.quantizer import nearest_index
from modeling.ladder.rate_control import index_for_bytes, index_for_psnr
from modeling.ladder.region import Region
from modeling.ladder.search import WEIGHT, searched_symbols
from utils.ladder.symbols import MAX_EXPONENT, from_residual_ids, residual_ids
from utils.layout import LadderLayout
from utils.seeding import stable_seed

LARGEST = 2**MAX_EXPONENT - 1


@dataclass(frozen=True)
class Target:
    """Criterion by which the step is chosen; exactly one is given.

    Args:
        bytes_per_frame: of the tokens in a file, without its header.
        psnr: minimum of the mean over frames, in dB.
        step: size of the step; the nearest step of the scale is used.

    Raises:
        ValueError: for no or two choices, or a value that is not above 0.
    """

    bytes_per_frame: float | None = None
    psnr: float | None = None
    step: float | None = None

    def __post_init__(self) -> None:
        targets = {name: value for name, value in vars(self).items() if value is not None}
        if len(targets) != 1:
            raise ValueError(f"{targets or 'no target'}: give exactly one of bytes_per_frame, psnr and step")
        ((name, value),) = targets.items()
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value}: expected a number above 0")


def encode_cine(
    ladder: Ladder, cine: Tensor, target: Target, region: Region | None = None, search: float = WEIGHT
) -> Tensor:
    """Encode a cine.

    Args:
        ladder: in eval mode.
        cine: (D, T, H, W) in [0, 1].
        target: rate, quality or step; the step is that outside the region.
        region: with finer steps; None for the same step everywhere.
        search: bits against error in the search of symbols; 0 for none.

    Returns:
        (D, row) int64, see `LadderLayout`.

    Raises:
        ValueError: when no step reaches the target.
    """
    ladder.check_precision()
    if region is not None:
        region.check()
    analysis, coder = ladder.analyse(cine, region), ladder.coder()

    def symbols_at(step_index: int) -> Symbols:
        return searched_symbols(coder.context, analysis.pyramid, step_index, search)

    if target.step is not None:
        index = nearest_index(target.step)
        symbols = symbols_at(index)
    elif target.psnr is not None:
        index, symbols = index_for_psnr(ladder, analysis, cine, target.psnr, symbols_at)
    else:
        assert target.bytes_per_frame is not None
        total = target.bytes_per_frame * cine.shape[0] * cine.shape[1]
        index, symbols = index_for_bytes(ladder, analysis, total, symbols_at)
    return to_tokens(ladder.layout, analysis, symbols, index, (cine.shape[-2], cine.shape[-1]))


def to_tokens(
    layout: LadderLayout, analysis: Analysis, symbols: Symbols, step_index: int, size: tuple[int, int]
) -> Tensor:
    """Write symbols and basis as tokens (D, row)."""
    bands = [band.cpu().numpy() for level in symbols for band in level]
    most = max(int(np.abs(band).max(initial=0)) for band in bands)
    if most > LARGEST:
        raise ValueError(f"a symbol is {most}, expected at most {LARGEST}; choose a larger step or fewer bytes")
    nonzero = np.stack([np.abs(band).max((0, 2, 3), initial=0) > 0 for band in bands])  # (bands, R)
    slices, rank = len(bands[0]), analysis.ids.shape[1]
    used = np.flatnonzero(nonzero.any(0))
    basis = analysis.ids + LIMIT
    basis[:, int(used[-1]) + 1 if used.size else 0 :] = -1
    sized = LadderLayout(layout.num_tokens, layout.codebook_size, height=size[0], width=size[1], rank=rank)
    parts = {
        "step": np.full((slices, 1), step_index),
        "region": np.full((slices, 4), -1) if analysis.region is None else np.tile(analysis.region, (slices, 1)),
        "base": np.full((slices, layout.num_tokens), -1),
        "basis": np.tile(basis, (slices, 1, 1)),
        "residual": residual_ids(bands, nonzero),
    }
    return torch.from_numpy(sized.join(parts))


def decode_cines(ladder: Ladder, tokens: Tensor, options: SamplerOptions | None = None) -> Tensor:
    """Decode tokens (B, D, row) to cines (B, D, T, H, W) in [0, 1].

    Raises:
        ValueError: for tokens of another layout, or cines of different sizes.
    """
    ladder.check_precision()
    ladder.layout.of(tokens)
    return torch.stack([decode_rows(ladder, rows, options) for rows in tokens])


@torch.no_grad()
def decode_rows(ladder: Ladder, tokens: Tensor, options: SamplerOptions | None = None) -> Tensor:
    """Decode tokens (D, row) to a cine (D, T, H, W) in [0, 1].

    Raises:
        ValueError: for tokens of another layout, or rows of different volumes.
    """
    sized = ladder.layout.of(tokens)
    slices, phases = sized.grid(tokens)
    sized.check(tokens, slices, phases)
    rows = sized.split(tokens.cpu().numpy(), slices, phases)
    device = next(ladder.parameters()).device
    cines = []
    fields = (rows[name] for name in ("step", "region", "basis", "residual"))
    for number, (step, place, basis, residual) in enumerate(zip(*fields, strict=True)):
        num_components = int((basis[0] >= 0).sum())
        levels = from_residual_ids(residual[None, : max(1, num_components)], sized.height, sized.width)
        symbols = [[torch.from_numpy(band).to(device) for band in level] for level in levels]
        vectors = orthonormal(np.where(basis < 0, 0, basis - LIMIT)[:, : max(1, num_components)])
        own = None if options is None else options._replace(seed=stable_seed(options.seed, number) % 2**62)
        region = Region(*place.tolist()) if (place >= 0).all() else None
        if region is not None:
            region.check()
        vectors = torch.from_numpy(vectors).float().to(device)
        cines.append(ladder.synthesise(symbols, vectors, int(step[0]), region, own))
    return torch.cat(cines)
