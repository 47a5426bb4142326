"""Iteration over the symbols of a volume in coding order, the same in encoder and decoder of a file.

    for site in session.sites():
        logits = session.logits(site)          # of the decisions, from the symbols that are known
        symbols = ...                          # coded, or decoded, with these logits
        session.add(site, symbols)

Bands whose energy class is 0 hold only zeros and are left out.

Axes: D slices, R components, h and w of a band.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from modeling.ladder.context import (
    STATIC_SIZE,
    Images,
    Known,
    dilated,
    energies_of,
    energy_inputs,
    framed_static,
    images_of,
)
from modeling.ladder.integer import IntegerContext
from utils.ladder.pyramid import PASSES, BandId, band_ids, band_shapes


class Site(NamedTuple):
    """The positions that are coded at a time: of one component, band and pass, in all slices.

    Args:
        component: index of the component.
        band: level and orientation.
        number: of the pass.
    """

    component: int
    band: BandId
    number: int


class _Band(NamedTuple):
    """What is computed once for the four passes of a band."""

    images: Images
    static: Tensor
    active: Tensor
    bias: Tensor
    zero_logits: Tensor


class Session:
    """An iteration over the symbols of some slices of a volume.

    Args:
        context: the integer context model.
        size: (H, W) of the components.
        slices: D, number of slices that are coded.
        step_index: see modeling/ladder/quantizer.py.
        energies: (bands, R) energy classes of the volume.
    """

    def __init__(
        self, context: IntegerContext, size: tuple[int, int], slices: int, step_index: int, energies: np.ndarray
    ) -> None:
        self.context, self.slices, self.step_index = context, slices, step_index
        self.shapes = band_shapes(*size)
        self.ids = band_ids(len(self.shapes) - 1)
        self.energies = torch.as_tensor(energies, dtype=torch.long, device=context.device)
        self.inputs = energy_inputs(self.energies)
        rank = self.energies.shape[1]
        self.known = Known(self.shapes, slices, rank, context.device)
        self.symbols = [[np.zeros((slices, rank, *shape), np.int32) for shape in level] for level in self.shapes]
        self._band: _Band | None = None

    @property
    def frequencies(self) -> np.ndarray:
        """Probability that a decision is 1 for each logit from -LAST to LAST, in units of 2^-PRECISION."""
        return self.context.frequencies

    def sites(self) -> Iterator[Site]:
        """Yield the sites in coding order, without bands of zeros."""
        for component in range(self.energies.shape[1]):
            for row, band in enumerate(self.ids):
                shape = self.shapes[band.level][band.orientation]
                if self.energies[row, component] and min(shape):
                    self._band = self._open(component, row, band)
                    for number, (first_row, first_column) in enumerate(PASSES):
                        if first_row < shape[0] and first_column < shape[1]:
                            yield Site(component, band, number)
                self.known.close(band, component)

    def logits(self, site: Site) -> np.ndarray:
        """Return the logits of the decisions at a site, (D, positions, DECISIONS) int16, row by row."""
        assert self._band is not None
        images, static, active, bias, zero_logits = self._band
        logs = self.known.band(images)
        return self.context.of_pass(site.number, static, active, logs, bias, zero_logits).cpu().numpy()

    def take(self, site: Site, symbols: list[list[np.ndarray]]) -> np.ndarray:
        """Return the symbols of a site, (D, positions), of all symbols (D, R, h, w) a band."""
        row, column = PASSES[site.number]
        band = symbols[site.band.level][site.band.orientation][:, site.component, row::2, column::2]
        return band.reshape(len(band), -1)

    def add(self, site: Site, symbols: np.ndarray) -> None:
        """Add the symbols of a site, (D, positions)."""
        (level, orientation), (row, column) = site.band, PASSES[site.number]
        target = self.symbols[level][orientation][:, site.component, row::2, column::2]
        target[...] = symbols.reshape(target.shape)
        coded = torch.from_numpy(np.ascontiguousarray(target)).to(self.context.device)
        self.known.add(site.band, site.component, site.number, coded)

    def _open(self, component: int, row: int, band: BandId) -> _Band:
        images = images_of(band, self.slices, torch.tensor([component], device=self.context.device))
        static = self.known.static(images)
        energies = self.inputs[row, component].expand(self.slices, 3)
        bias = self.context.bias(images, self.step_index, energies)
        active = dilated((static != 0).any(-1), STATIC_SIZE)
        return _Band(images, framed_static(static), active, bias, self.context.zero_logits(bias))


class SymbolCoder:
    """The context model with the interface that the file format uses, `SymbolModel` of data/bitstream/ladder.py.

    Args:
        context: the integer context model.
    """

    def __init__(self, context: IntegerContext) -> None:
        self.context = context

    def energies(self, symbols: list[list[np.ndarray]]) -> np.ndarray:
        """Energy class of each band of each component, (bands, R), of symbols (D, R, h, w) a band."""
        return energies_of([[torch.from_numpy(band) for band in level] for level in symbols]).numpy()

    def walk(self, size: tuple[int, int], slices: int, step_index: int, energies: np.ndarray) -> Session:
        """Begin to code or to decode slices of size (H, W)."""
        return Session(self.context, size, slices, step_index, energies)
