"""Compress a cine with a model, and decompress it; used by the command-line tools and by the evaluation.

Axes: H height, W width, S side of the model grid, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from data.bitstream import container
from data.bitstream.entropy import TokenTable
from data.bitstream.header import Header, header_for
from data.case import CineCase
from data.preprocess import Prepared, apply_mask, native_field
from data.scoring.images import Reference
from data.window import real_values
from modeling.flow import SamplerOptions
from modeling.titok import TiTok
from modeling.weights.identity import Identity

OUTSIDE = ("zero", "mean")  # rules for voxels outside the model's field
_IDENTITIES: WeakKeyDictionary[nn.Module, Identity] = WeakKeyDictionary()


def load_model(folder: Path, device: torch.device, batch_frames: int) -> TiTok:
    """Load a model from its folder to a device, in eval mode, with `batch_frames` frames per batch."""
    model = TiTok.from_pretrained(folder).to(device).eval()
    model.chunks.frames = batch_frames
    return model


def identity_of(model: TiTok) -> Identity:
    """Return the identity of a model; it is computed once, so the weights must not change afterwards."""
    if model not in _IDENTITIES:
        _IDENTITIES[model] = model.identity()
    return _IDENTITIES[model]


def table_of(model: TiTok) -> TokenTable | None:
    """Return the frequencies of the tokens of a model; None for a model without token counts."""
    counts = model.token_counts
    return TokenTable(counts) if counts and len(counts) == model.layout.codebook_size else None


def compress(model: TiTok, reference: Reference, keep: int | None = None) -> bytes:
    """Compress a patient with the first `keep` tokens of each frame, or of the cine; None for all tokens."""
    case = reference.case
    leaked: dict[str, Any] = {}
    if model.conditioning.leak is not None:
        leaked = {"ed": case.ed, "es": case.es, "mask": torch.from_numpy(masks_on_grid(reference))}
    return compress_case(model, case, reference.prepared, keep, **leaked)


def compress_case(
    model: TiTok, case: CineCase, prepared: Prepared, keep: int | None = None, outside: str = "zero", **leaked: Any
) -> bytes:
    """Compress a cine.

    Args:
        model: in eval mode on its device.
        case: the native cine.
        prepared: the cine on the model grid.
        keep: number of transmitted tokens of each frame, or of the cine; None for all.
        outside: value of the voxels outside the model's field after decoding: `zero`, or `mean` for their mean value.
        leaked: ground truth, for a model with the conditioning `mask`.

    Returns:
        The bytes of the compressed file.
    """
    device = next(model.parameters()).device
    x = torch.from_numpy(prepared.image)[None].expand(-1, model.config.channels, -1, -1, -1, -1)
    leaked = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in leaked.items()}
    tokens = model.encode(x.to(device), keep_tokens=keep, **leaked)[0].cpu().numpy()
    value = mean_outside(case, prepared) if outside == "mean" else None
    header = header_for(case, prepared, model.layout, **identity_of(model)._asdict(), outside=value)
    return container.pack(tokens, header, table_of(model))


def mean_outside(case: CineCase, prepared: Prepared) -> float | None:
    """Return the mean real value of the voxels outside the model's field; None if there are none."""
    field = native_field(prepared.geometry)
    if field.all():
        return None
    return float(np.float32(real_values(case.cine[~field], case.slope, case.intercept).mean(dtype=np.float64)))


def masks_on_grid(reference: Reference) -> np.ndarray:
    """Return the ground truth on the model grid, (1, S, S, D, T) uint8, for a model that encodes it.

    Raises:
        ValueError: ED or ES is not labelled.
    """
    case = reference.case
    if case.ed not in case.masks or case.es not in case.masks:
        raise ValueError(
            "the model encodes ground truth (conditioning mask), and ED or ES has none; leave the case out"
        )
    grid = np.zeros(reference.prepared.image.shape, np.uint8)
    for phase, labels in case.masks.items():
        on_grid = apply_mask(labels.transpose(2, 0, 1), reference.prepared.geometry)  # (D, S, S)
        grid[0, ..., phase] = on_grid.transpose(1, 2, 0)
    return grid


def read_tokens(model: TiTok, data: bytes) -> tuple[np.ndarray, Header]:
    """Read the tokens and the header of a compressed file that this model can decode.

    Raises:
        ValueError: the file is damaged, or a model with other tokens wrote it.
    """
    header = container.read_parts(data).header
    expected = identity_of(model).tokens_id
    if header.tokens_id != expected:
        raise ValueError(
            f"the file was written by the model {header.tokens_id:016x}, but this model is {expected:016x} and its "
            "tokens differ; give the folder of the model that wrote the file"
        )
    return container.unpack(data, table_of(model))


def decoder_note(model: TiTok, header: Header) -> str | None:
    """Return a note if this model's decoder differs from that of the model that wrote the file, else None."""
    own = identity_of(model).pixels_id
    if own == header.pixels_id:
        return None
    return (
        f"another decoder ({own:08x}) than the writer's ({header.pixels_id:08x}); the pictures differ from the writer's"
    )


def decode(model: TiTok, tokens: np.ndarray, header: Header, options: SamplerOptions | None = None) -> np.ndarray:
    """Decode tokens to (S, S, D, T), from tokens and header alone; the channels of a colour tokenizer are averaged."""
    batch = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
    grid = None if header.layout.has_grid else (header.slices, header.phases)
    image = model.decode_tokens(batch, **(options or SamplerOptions())._asdict(), grid=grid)
    return image[0].float().mean(0).cpu().numpy()


def decompress(model: TiTok, data: bytes, options: SamplerOptions | None = None) -> np.ndarray:
    """Decode a compressed file to (S, S, D, T), from its bytes alone."""
    return decode(model, *read_tokens(model, data), options)


def tokens_in(model: TiTok, data: bytes) -> int:
    """Return the number of ids in a compressed file."""
    tokens, header = read_tokens(model, data)
    return header.layout.transmitted(tokens, header.slices, header.phases)


def field_of(model: TiTok) -> str:
    """Return the description of the model's field."""
    size = model.config.image_size
    words = {"crop": f"{size} x {size} native pixels around the heart", "fit": f"the whole image, {size} pixels a side"}
    return words[model.config.geometry]
