"""How the tokens of each layout become bytes of a file: one coder for each layout of utils/layout.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from data.bitstream import ladder, payload
from data.bitstream.entropy import TokenTable
from data.bitstream.header import Header
from data.bitstream.ladder import SymbolModel
from data.bitstream.payload import Payload
from data.preprocess import Geometry, model_field
from utils.layout import FrameLayout, LadderLayout, SequenceLayout
from utils.metrics import bounding_box

Model = TokenTable | SymbolModel | None  # what predicts the tokens; None for a model of frames without a table


class Coder(Protocol):
    """The coder of a layout; all methods raise a ValueError for tokens or bytes that do not match the header."""

    def write(self, tokens: np.ndarray, header: Header, model: Model) -> Payload:
        """Return tokens as bytes."""

    def read(
        self, coded: Payload, header: Header, model: Model, damaged: list[int] | None
    ) -> tuple[np.ndarray, Payload]:
        """Return the tokens, int64, and the payload that `write` returns for them.

        Args:
            coded: the payload of a file.
            header: of the file.
            model: as for `write`.
            damaged: see `unpack` of container.py.
        """

    def budget(self, coded: Payload, header: Header) -> dict[str, int]:
        """Return the bits of each part of a payload; the ids are not decoded."""

    def describe(self, coded: Payload) -> str:
        """Return how the ids of a payload are coded, as text."""


class FieldCoder:
    """The coder of layouts that are written field by field, see payload.py."""

    def write(self, tokens: np.ndarray, header: Header, model: Model) -> Payload:
        """See `Coder`."""
        return payload.write_payload(header.layout, tokens, header.slices, header.phases, table_of(model))

    def read(
        self, coded: Payload, header: Header, model: Model, damaged: list[int] | None
    ) -> tuple[np.ndarray, Payload]:
        """See `Coder`; a damaged file cannot be decoded in part."""
        tokens = payload.read_payload(header.layout, coded, header.slices, header.phases, table_of(model))
        return tokens, self.write(tokens, header, model)

    def budget(self, coded: Payload, header: Header) -> dict[str, int]:
        """See `Coder`."""
        return payload.budget(header.layout, coded, header.slices, header.phases)

    def describe(self, coded: Payload) -> str:
        """See `Coder`."""
        return payload.CODINGS[coded.coding]


class LadderCoder:
    """The coder of the layout `ladder`, see ladder.py; it needs the context model of the ladder."""

    def write(self, tokens: np.ndarray, header: Header, model: Model) -> Payload:
        """See `Coder`."""
        if tokens.ndim != 2 or len(tokens) != header.slices:
            raise ValueError(f"tokens have shape {tokens.shape}, expected {header.slices} rows, one a slice")
        size = _field_size(header.geometry)
        return Payload(0, 0, ladder.write(_ladder(header), tokens, header.phases, _context_model(model), size))

    def read(
        self, coded: Payload, header: Header, model: Model, damaged: list[int] | None
    ) -> tuple[np.ndarray, Payload]:
        """See `Coder`; `ladder.read` refuses codes that `ladder.write` would write differently."""
        slices, phases, size = header.slices, header.phases, _field_size(header.geometry)
        tokens = ladder.read(_ladder(header), coded.data, slices, phases, _context_model(model), damaged, size)
        return tokens, Payload(0, 0, coded.data)

    def budget(self, coded: Payload, header: Header) -> dict[str, int]:
        """See `Coder`."""
        return ladder.budget(_ladder(header), coded.data, header.slices, header.phases)

    def describe(self, coded: Payload) -> str:
        """See `Coder`."""
        return "context model of the ladder"


CODERS: Mapping[str, Coder] = {
    FrameLayout.name: FieldCoder(),
    SequenceLayout.name: FieldCoder(),
    LadderLayout.name: LadderCoder(),
}


def table_of(model: Model) -> TokenTable | None:
    """Return the model where it is a table of frequencies."""
    return model if isinstance(model, TokenTable) else None


def _context_model(model: Model) -> SymbolModel:
    if model is None or isinstance(model, TokenTable):
        raise ValueError("the file has tokens of layout ladder: give the context model of the ladder that wrote it")
    return model


def _ladder(header: Header) -> LadderLayout:
    assert isinstance(header.layout, LadderLayout)
    return header.layout


def _field_size(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns of the model grid that hold native pixels."""
    rows, columns = bounding_box(model_field(geometry))
    return rows.stop - rows.start, columns.stop - columns.start
