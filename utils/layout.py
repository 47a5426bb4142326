"""Token layouts: where each id stands in a token tensor, its range, and its bits.

    frame      (..., D, 2 + T*K + 2*A)   a row for each slice: phase of ED, phase of ES, K ids a phase, A of ED, A of ES
    sequence   (..., N)                  N ids of a whole cine, anatomy included
    image      (..., K)                  K ids of a single image
    ladder     (..., D, 9 + N + T*R + R*H*W)   a row for each slice: H, W, T, R, step index, region of finer steps,
                                          N base tokens, temporal basis of the volume, residual ids of the slice

Model, compressed file, baselines and evaluation get all positions and counts from the layout. A new layout is one class
here. Tokens are torch tensors or numpy arrays; an id of -1 is not transmitted and costs no bits; ids are local to
their own codebook.

Axes: D slices, T phases of the cardiac cycle, K latent tokens a frame, A anatomy tokens a key frame, N tokens a cine,
R temporal components, H and W of the coded field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.ladder.symbols import LADDER_BASIS, LADDER_REGION, LADDER_RESIDUAL, LADDER_STEPS

NOT_TRANSMITTED = -1
Array = Any  # a torch tensor or a numpy array of integers


class Field(NamedTuple):
    """Numbers of one kind in a token tensor.

    Args:
        name: key of `TokenLayout.split`.
        label: of one number, for error messages.
        axes, shape: name of each axis of the field, `slice`, `phase`, `key` (ED, ES) or `token`, and its length.
        size: values lie in [0, size), or are -1.
        is_index: True for numbers that are not tokens, such as the phases of ED and ES.
    """

    name: str
    label: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    size: int
    is_index: bool = False

    @property
    def bits(self) -> int:
        """Bits of an id of fixed width; those of an index also code -1."""
        return self.size.bit_length() if self.is_index else max(0, self.size - 1).bit_length()

    @property
    def block_shape(self) -> tuple[int, int]:
        """Number of blocks of tokens, and tokens a block."""
        return math.prod(self.shape[:-1]), self.shape[-1]


@dataclass(frozen=True)
class TokenLayout:
    """The positions of the tokens of one cine in a tensor; leading axes, such as a batch, are not changed.

    Args:
        num_tokens: K, latent tokens a frame; in layout `sequence` N, tokens of the whole cine.
        codebook_size: number of ids of a latent token.
        num_anatomy: A, anatomy tokens a key frame.
        anatomy_codebook_size: number of ids of an anatomy token.
    """

    num_tokens: int
    codebook_size: int
    num_anatomy: int = 0
    anatomy_codebook_size: int = 0
    name: ClassVar[str]
    words: ClassVar[str]  # the shape as text, for messages
    has_grid: ClassVar[bool] = False  # whether the shape of the tokens gives the number of slices and phases
    fewest_tokens: ClassVar[int] = 1  # smallest `num_tokens`

    def of(self, tokens: Array) -> TokenLayout:
        """The layout with the sizes that tokens contain; only `ladder` has such sizes."""
        return self

    def fields(self, slices: int, phases: int) -> tuple[Field, ...]:
        """The fields of a cine, in the order in which they are written."""
        raise NotImplementedError

    def of_images(self) -> ImageLayout:
        """The layout of single images with the same codebook."""
        return ImageLayout(self.num_tokens, self.codebook_size)

    def shape(self, slices: int, phases: int) -> tuple[int, ...]:
        """Shape of the tokens of a cine."""
        return self.fields(slices, phases)[0].shape

    def grid(self, tokens: Array) -> tuple[int, int]:
        """Slices and phases of tokens, of a layout that `has_grid`; a ValueError for a shape that no cine has."""
        raise ValueError(f"tokens of layout {self.name} do not contain the numbers of slices and phases")

    def split(self, tokens: Array, slices: int, phases: int) -> dict[str, Array]:
        """The fields of tokens (..., *shape) by name, each (..., *field.shape)."""
        return {self.fields(slices, phases)[0].name: tokens}

    def join(self, parts: dict[str, Array]) -> Array:
        """The inverse of `split`."""
        (tokens,) = parts.values()
        return tokens

    def check(self, tokens: Array, slices: int = 1, phases: int = 1) -> None:
        """Raise a ValueError for tokens of another type or shape, or a number out of range."""
        is_integer = tokens.dtype == torch.long if isinstance(tokens, Tensor) else tokens.dtype.kind in "iu"
        if not is_integer:
            raise ValueError(f"tokens are {tokens.dtype}: expected torch.int64, as from encode; cast with .long()")
        shape = self.shape(slices, phases)
        if tokens.ndim - len(shape) not in (0, 1) or tuple(tokens.shape[-len(shape) :]) != shape:
            words = f"(B, {', '.join(map(str, shape))}), layout {self.words}"
            raise ValueError(f"tokens of shape {tuple(tokens.shape)}: expected {words}")
        parts = self.split(tokens, slices, phases)
        for field in self.fields(slices, phases):
            check_range(parts[field.name], field)

    def keep(self, count: int | None) -> int:
        """Return the number of transmitted tokens of each frame, or of the cine; None means all.

        Raises:
            ValueError: for a number that is not 1 to `num_tokens`.
        """
        if count is not None and not 1 <= count <= self.num_tokens:
            raise ValueError(
                f"keep_tokens = {count}: expected 1 to {self.num_tokens}, the tokens of this model's layout {self.name}"
            )
        return self.num_tokens if count is None else count

    def transmitted(self, tokens: Array, slices: int, phases: int) -> int:
        """Return the number of transmitted tokens, without the phases of ED and ES."""
        return sum(count for _, count in self._counts(tokens, slices, phases))

    def id_bits(self, tokens: Array, slices: int, phases: int) -> int:
        """Return the bits of the transmitted ids at fixed width, without file header, ED, ES and presence of tokens."""
        return sum(count * field.bits for field, count in self._counts(tokens, slices, phases))

    def _counts(self, tokens: Array, slices: int, phases: int) -> list[tuple[Field, int]]:
        sized = self.of(tokens)
        parts = sized.split(tokens, slices, phases)
        return [(f, int((parts[f.name] >= 0).sum())) for f in sized.fields(slices, phases) if not f.is_index]


class FrameLayout(TokenLayout):
    """Tokens of every frame; one row for each slice, which begins with the phases of ED and ES."""

    name = "frame"
    words = "(D, 2 + T*K + 2*A)"
    has_grid = True

    def fields(self, slices: int, phases: int) -> tuple[Field, ...]:
        """Phases of ED and ES, K ids a frame, A ids a key frame."""
        by_frame, by_key = (slices, phases, self.num_tokens), (slices, 2, self.num_anatomy)
        return (
            Field("key_phases", "ED/ES index", ("slice", "key"), (slices, 2), phases, is_index=True),
            Field("frames", "latent token", ("slice", "phase", "token"), by_frame, self.codebook_size),
            Field("anatomy", "anatomy token", ("slice", "key", "token"), by_key, self.anatomy_codebook_size),
        )

    def shape(self, slices: int, phases: int) -> tuple[int, ...]:
        """(D, 2 + T*K + 2*A)."""
        return slices, 2 + phases * self.num_tokens + 2 * self.num_anatomy

    def grid(self, tokens: Array) -> tuple[int, int]:
        """Slices and phases of tokens (B, D, 2 + T*K + 2*A)."""
        ids = tokens.shape[-1] - 2 - 2 * self.num_anatomy
        if tokens.ndim != 3 or ids <= 0 or ids % self.num_tokens:
            raise ValueError(
                f"tokens of shape {tuple(tokens.shape)}: expected (B, D, 2 + T*{self.num_tokens} + "
                f"{2 * self.num_anatomy}) as encode returns it, or (B, {self.num_tokens}) for single images"
            )
        return tokens.shape[1], ids // self.num_tokens

    def split(self, tokens: Array, slices: int, phases: int) -> dict[str, Array]:
        """`key_phases` (..., D, 2), `frames` (..., D, T, K) and `anatomy` (..., D, 2, A)."""
        last, lead = 2 + phases * self.num_tokens, tokens.shape[:-1]
        return {
            "key_phases": tokens[..., :2],
            "frames": tokens[..., 2:last].reshape(*lead, phases, self.num_tokens),
            "anatomy": tokens[..., last:].reshape(*lead, 2, self.num_anatomy),
        }

    def join(self, parts: dict[str, Array]) -> Array:
        """One array (..., D, 2 + T*K + 2*A)."""
        rows = [part.reshape(*parts["key_phases"].shape[:-1], -1) for part in parts.values() if math.prod(part.shape)]
        return torch.cat(rows, -1) if isinstance(rows[0], Tensor) else np.concatenate(rows, -1)


class SequenceLayout(TokenLayout):
    """A few tokens of a whole cine, with its anatomy; the grid is an argument of the decoding."""

    name = "sequence"
    words = "(N,)"

    def fields(self, slices: int, phases: int) -> tuple[Field, ...]:
        """N ids."""
        return (Field("cine", "token", ("token",), (self.num_tokens,), self.codebook_size),)


class ImageLayout(TokenLayout):
    """Tokens of a single image, without anatomy."""

    name = "image"
    words = "(K,)"
    has_grid = True

    def fields(self, slices: int, phases: int) -> tuple[Field, ...]:
        """K ids."""
        return (Field("image", "latent token", ("token",), (self.num_tokens,), self.codebook_size),)

    def grid(self, tokens: Array) -> tuple[int, int]:
        """One slice of one phase."""
        return 1, 1


@dataclass(frozen=True)
class LadderLayout(TokenLayout):
    """Residual tokens of a cine of any size, see modeling/ladder; every row can be decoded without the others.

    A residual id is 2 |q| - 1 for a symbol q > 0, 2 |q| for q <= 0, and -1 in a band that holds only zeros.

    Args:
        height, width, rank: H, W and R; 0 without a cine.
    """

    height: int = 0
    width: int = 0
    rank: int = 0
    name: ClassVar[str] = "ladder"
    words: ClassVar[str] = "(D, 9 + N + T*R + R*H*W)"
    has_grid: ClassVar[bool] = True
    fewest_tokens: ClassVar[int] = 0

    def of(self, tokens: Array) -> LadderLayout:
        """The layout of tokens (D, row) or (B, D, row), from the head of their rows; a ValueError for other rows."""
        first = tokens.reshape(-1)[:4]
        head = first.tolist() if tokens.ndim in (2, 3) else []
        height, width, phases, rank = head if len(head) == 4 else (0, 0, 0, 0)
        sized = replace(self, height=height, width=width, rank=rank)
        if not 1 <= rank <= phases or min(height, width) < 1 or tokens.shape[-1] != sized.shape(1, phases)[1]:
            raise ValueError(f"tokens of shape {tuple(tokens.shape)} that begin with {head}: expected {self.words}")
        if (tokens[..., :4] != first).any():
            raise ValueError("rows of the tokens begin with different H, W, T or R: they belong to different cines")
        return sized

    def fields(self, slices: int, phases: int) -> tuple[Field, ...]:
        """Step index, region, N ids, the temporal basis, residual ids."""
        residual = (slices, self.rank, self.height * self.width)
        return (
            Field("step", "step index", ("slice", "token"), (slices, 1), LADDER_STEPS, is_index=True),
            Field("region", "region", ("slice", "token"), (slices, 4), LADDER_REGION, is_index=True),
            Field("base", "base token", ("slice", "token"), (slices, self.num_tokens), self.codebook_size),
            Field("basis", "basis id", ("slice", "phase", "token"), (slices, phases, self.rank), LADDER_BASIS),
            Field("residual", "residual id", ("slice", "component", "token"), residual, LADDER_RESIDUAL),
        )

    def shape(self, slices: int, phases: int) -> tuple[int, ...]:
        """(D, 9 + N + T*R + R*H*W)."""
        return slices, 9 + self.num_tokens + self.rank * (phases + self.height * self.width)

    def grid(self, tokens: Array) -> tuple[int, int]:
        """Slices and phases of tokens (..., D, row)."""
        self.of(tokens)
        return tokens.shape[-2], int(tokens.reshape(-1)[2])

    def split(self, tokens: Array, slices: int, phases: int) -> dict[str, Array]:
        """The fields, without H, W, T and R."""
        parts, last = {}, 4
        for field in self.fields(slices, phases):
            first, last = last, last + math.prod(field.shape[1:])
            parts[field.name] = tokens[..., first:last].reshape(*tokens.shape[:-1], *field.shape[1:])
        return parts

    def join(self, parts: dict[str, Array]) -> np.ndarray:
        """One numpy array (..., D, row)."""
        lead = parts["step"].shape[:-1]
        head = np.array((self.height, self.width, parts["basis"].shape[-2], self.rank), np.int64)
        rows = [np.broadcast_to(head, (*lead, 4)), *(np.asarray(part) for part in parts.values())]
        return np.concatenate([row.reshape(*lead, math.prod(row.shape[len(lead) :])) for row in rows], -1)


LAYOUTS: dict[str, type[TokenLayout]] = {  # of cines; their order is part of the compressed file's format
    layout.name: layout for layout in (FrameLayout, SequenceLayout, LadderLayout)
}


def check_range(values: Array, field: Field) -> None:
    """Raise ValueError for a value that is neither -1 nor in [0, size)."""
    if math.prod(values.shape) and (int(values.min()) < NOT_TRANSMITTED or int(values.max()) >= field.size):
        wrong = int(values.max()) if int(values.max()) >= field.size else int(values.min())
        expected = f"expected -1 (not transmitted) or 0 to {field.size - 1}"
        raise ValueError(
            f"{field.label} {wrong} is out of range: {expected}; the tokens belong to another model or file"
        )
