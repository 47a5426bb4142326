"""Inputs of the context model: the symbols of a volume that are known when a symbol is coded.

    order       components by falling energy; in each, bands from coarse to fine; in each band, four passes over the
                positions (row, column) modulo 2, see utils/ladder/pyramid.py
    static      the components before, also in their next finer band; the parent band; the other orientations
    dynamic     the neighbours in the band that earlier passes coded

All inputs are integers: a symbol q enters as sign(q) * floor(16 log2(1 + |q|)), at most 127 in magnitude. So the same
network can be evaluated in integers, and every machine computes the same probabilities (modeling/ladder/integer.py).

Axes: D slices, R components, h and w of a band, n images of a band (one slice of one component), m positions.

Source: passes as in the checkerboard context of He et al., 2021, with four instead of two.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.ladder.pyramid import PASSES, BandId, Shapes, band_ids, parent
from utils.ladder.symbols import ENERGIES

STATIC, DYNAMIC = 14, 3  # channels that are known before a band, and from the passes of the band
STATIC_SIZE, DYNAMIC_SIZE = 3, 5  # sides of the windows
TOP = 127  # largest input
LOG_SCALE = 16

Symbols = list[list[Tensor]]  # (D, R, h, w) integers for each band of each level


class Positions(NamedTuple):
    """Positions of a band: image, row and column, (m,) each."""

    image: Tensor
    row: Tensor
    column: Tensor

    def passes(self) -> Tensor:
        """The pass that codes each position, (m,)."""
        return _pass_numbers(self.row.device)[self.row % 2, self.column % 2]


class Images(NamedTuple):
    """Images of one band: slice and component, (n,) each."""

    band: BandId
    slices: Tensor
    components: Tensor


def images_of(band: BandId, slices: int, components: Tensor) -> Images:
    """Return all slices of some components of a band, slice by slice."""
    grid = torch.meshgrid(torch.arange(slices, device=components.device), components, indexing="ij")
    return Images(band, grid[0].flatten(), grid[1].flatten())


@cache
def _pass_numbers(device: torch.device) -> Tensor:
    """Number of the pass that codes a position, by row and column modulo 2, (2, 2)."""
    return torch.tensor([[PASSES.index((row, column)) for column in (0, 1)] for row in (0, 1)], device=device)


@cache
def _log_table(device: torch.device) -> Tensor:
    """floor(16 log2(1 + q)) for q from 0 to 255, at most 127; computed in whole numbers, so it is exact."""
    table = [min(TOP, ((1 + q) ** LOG_SCALE).bit_length() - 1) for q in range(256)]
    return torch.tensor(table, dtype=torch.float32, device=device)


def log_symbols(symbols: Tensor) -> Tensor:
    """Return sign(q) * floor(16 log2(1 + |q|)), at most 127 in magnitude, float32."""
    return _log_table(symbols.device)[symbols.abs().clamp(max=255).long()] * symbols.sign()


class Known:
    """The known symbols as inputs; symbols are added band by band.

    Args:
        shapes: of the bands.
        slices: D.
        rank: R.
        device: of the inputs.
    """

    def __init__(self, shapes: Shapes, slices: int, rank: int, device: torch.device) -> None:
        def zeros(shape: tuple[int, int], more: int) -> Tensor:
            return torch.zeros(slices, rank + more, *shape, device=device)

        self.logs = [[zeros(shape, 2) for shape in level] for level in shapes]  # two empty components come first
        self.sums = [[zeros(shape, 1) for shape in level] for level in shapes]  # magnitudes of the components before

    @classmethod
    def of(cls, symbols: Symbols) -> Known:
        """Return all symbols as known."""
        slices, rank = symbols[0][0].shape[:2]
        shapes = [[(band.shape[2], band.shape[3]) for band in level] for level in symbols]
        known = cls(shapes, slices, rank, symbols[0][0].device)
        for level, bands in enumerate(symbols):
            for orientation, band in enumerate(bands):
                logs = log_symbols(band)
                known.logs[level][orientation][:, 2:] = logs
                known.sums[level][orientation][:, 1:] = logs.abs().cumsum(1)
        return known

    def add(self, band: BandId, component: int, number: int, symbols: Tensor) -> None:
        """Add a pass of a band of a component of all slices, (D, rows, columns)."""
        row, column = PASSES[number]
        self.logs[band.level][band.orientation][:, component + 2, row::2, column::2] = log_symbols(symbols)

    def close(self, band: BandId, component: int) -> None:
        """End a band of a component; passes that were not added hold zeros."""
        logs, sums = (kind[band.level][band.orientation] for kind in (self.logs, self.sums))
        sums[:, component + 1] = sums[:, component] + logs[:, component + 2].abs()

    def band(self, images: Images) -> Tensor:
        """Return the symbols of images as inputs, (n, h, w)."""
        band, slices, components = images
        return self.logs[band.level][band.orientation][slices, components + 2]

    def static(self, images: Images) -> Tensor:
        """Return the inputs of images that are known before the first pass of their band.

        Returns:
            (n, h, w, STATIC), integers from -127 to 127 as float32.
        """
        (level, orientation), slices, components = images
        logs, sums = self.logs[level], self.sums[level][orientation][slices, components]
        own = logs[orientation]
        height, width = own.shape[-2:]
        count = components.clamp(min=1)[:, None, None]
        before = own[slices, components + 1]
        zero = torch.zeros_like(before)

        def same_level(source: int, shift: int) -> Tensor:
            return zero if source < 0 else _fitted(logs[source][slices, components + shift], height, width)

        above, coarser = zero, parent(images.band)
        if coarser is not None:
            above = self.logs[coarser.level][coarser.orientation][slices, components + 2]
            above = _fitted(above.repeat_interleave(2, -1).repeat_interleave(2, -2), height, width)
        one = same_level(orientation - 1 if level else -1, 2)
        two = same_level(orientation - 2 if level else -1, 2)
        finer, sources = zero, []
        if level + 1 < len(self.logs):
            sources = self.logs[level + 1] if level == 0 else [self.logs[level + 1][orientation]]
        for source in sources:
            finer = finer + _pooled(source[slices, components + 1].abs(), height, width)
        all_before = zero
        for source in range(len(logs)):
            all_before = all_before + same_level(source, 1).abs()
        wide = F.avg_pool2d(sums[:, None], 5, 1, 2, divisor_override=1)[:, 0]
        first = own[slices, torch.full_like(components, 2)] * (components > 0)[:, None, None]
        return torch.stack(
            [
                before, before.abs(), own[slices, components], first, (sums / count).floor(), above, above.abs(),
                one, one.abs(), two, two.abs(), (finer / max(1, len(sources))).floor(), all_before.clamp(max=TOP),
                (wide / (25 * count)).floor(),
            ],
            -1,
        )  # fmt: skip


def _fitted(image: Tensor, height: int, width: int) -> Tensor:
    """Cut an image (n, h, w), or repeat its last row and column: bands of one level differ by one row or column."""
    if image.shape[-2:] == (height, width):
        return image
    if not image.numel():
        return image.new_zeros((*image.shape[:-2], height, width))
    rows = torch.arange(height, device=image.device).clamp(max=image.shape[-2] - 1)
    columns = torch.arange(width, device=image.device).clamp(max=image.shape[-1] - 1)
    return image[..., rows, :][..., columns]


def _pooled(image: Tensor, height: int, width: int) -> Tensor:
    """Mean of 2 x 2 positions, rounded down."""
    image = _fitted(image, 2 * height, 2 * width)
    return (F.avg_pool2d(image[:, None], 2, divisor_override=1)[:, 0] / 4).floor()


def dilated(nonzero: Tensor, size: int) -> Tensor:
    """Return the positions whose window holds a busy position, (n, h, w) bool -> bool."""
    image = F.max_pool2d(nonzero[:, None].float(), (size, 1), 1, (size // 2, 0))
    return F.max_pool2d(image, (1, size), 1, (0, size // 2))[:, 0] > 0


@cache
def known_masks(device: torch.device) -> Tensor:
    """Return which neighbours of a position of pass p earlier passes coded, (passes, 25), 0 or 1."""
    side, half = DYNAMIC_SIZE, DYNAMIC_SIZE // 2
    masks = torch.zeros(len(PASSES), side, side)
    for number, (row, column) in enumerate(PASSES):
        for i in range(side):
            for j in range(side):
                at = ((row + i - half) % 2, (column + j - half) % 2)
                masks[number, i, j] = float(PASSES.index(at) < number)
    return masks.flatten(1).to(device)


def framed_static(static: Tensor) -> Tensor:
    """Add a frame of zeros to (n, h, w, STATIC), for `static_windows`."""
    return F.pad(static, (0, 0, *((STATIC_SIZE // 2,) * 4)))


def framed_logs(logs: Tensor) -> Tensor:
    """Add a frame of TOP + 1, which marks the outside, to symbols (n, h, w) as inputs, for `neighbours`."""
    return F.pad(logs[..., None], (0, 0, *((DYNAMIC_SIZE // 2,) * 4)), value=TOP + 1)


def static_windows(framed: Tensor, at: Positions) -> Tensor:
    """Return the static inputs around positions, (m, 9 * STATIC): rows, columns, channels."""
    return _windows(framed, at, STATIC_SIZE)


def neighbours(framed: Tensor, at: Positions) -> Tensor:
    """Return the neighbours of positions that passes before theirs coded.

    Args:
        framed: from `framed_logs`.
        at: the positions.

    Returns:
        (m, DYNAMIC * 25): symbols, magnitudes, and 127 where known; beyond the border nothing is known.
    """
    symbols = _windows(framed, at, DYNAMIC_SIZE)
    known = known_masks(framed.device)[at.passes()] * (symbols <= TOP)
    symbols = symbols * known
    return torch.cat([symbols, symbols.abs(), TOP * known], 1)


def _windows(framed: Tensor, at: Positions, size: int) -> Tensor:
    """Windows (m, size * size * C) of images with their frame (n, h + size - 1, w + size - 1, C)."""
    height, width = framed.shape[1:3]
    first = (at.image * height + at.row) * width + at.column
    steps = torch.arange(size, device=framed.device)
    offsets = (steps[:, None] * width + steps).flatten()
    return framed.flatten(0, 2)[first[:, None] + offsets].flatten(1)


def energy_class(total: int, count: int) -> int:
    """Return the class of a band with `count` symbols whose magnitudes sum to `total`.

    Returns:
        0 for zeros only, else 1 + floor(log2(mean) + 14), from 1 to ENERGIES - 1.
    """
    if total == 0:
        return 0
    return min(ENERGIES - 1, max(1, ((total << 14) // count).bit_length()))


def energies_of(symbols: Symbols) -> Tensor:
    """Return the energy class of each band of each component of a volume, (bands, R) int64, bands in coding order."""
    rows = []
    for band in (band for level in symbols for band in level):
        totals = band.abs().sum((0, 2, 3), dtype=torch.int64).tolist()
        rows.append([energy_class(total, band.numel() // band.shape[1]) for total in totals])
    return torch.tensor(rows)


def used_components(energies: Tensor) -> int:
    """Return the number of components up to the last one with symbols, from energy classes (bands, R)."""
    used = energies.any(0).nonzero()[:, 0]
    return int(used[-1]) + 1 if len(used) else 0


def energy_inputs(energies: Tensor) -> Tensor:
    """Return the energy classes of each band, of its parent, and of the component before, (bands, R, 3)."""
    ids = band_ids((len(energies) - 1) // 3)
    parents = [parent(band) for band in ids]
    above = torch.stack([torch.zeros_like(energies[0]) if p is None else energies[ids.index(p)] for p in parents])
    return torch.stack([energies, above, F.pad(energies, (1, 0))[:, :-1]], -1)
