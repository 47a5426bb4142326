"""A patient to a compressed file by a model, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.bitstream import container
from data.bitstream.container import Header
from data.preprocess import apply_mask
from data.scoring.images import Reference
from modeling.flow import SamplerOptions
from modeling.titok import TiTok


def load_model(folder: Path, device: torch.device, batch_frames: int) -> TiTok:
    """A model from its folder, on its device, that takes `batch_frames` frames at a time."""
    model = TiTok.from_pretrained(folder).to(device).eval()
    model.chunks.frames = batch_frames
    return model


def compress(model: TiTok, reference: Reference, keep: int | None = None) -> bytes:
    """A patient's compressed file; of each frame or cine the first `keep` tokens are in it, all for None."""
    x = torch.from_numpy(reference.prepared.image)[None].expand(-1, model.config.channels, -1, -1, -1, -1)
    device, case = next(model.parameters()).device, reference.case
    leaked: dict[str, Any] = {}
    if model.conditioning.leak is not None:
        leaked = {"ed": case.ed, "es": case.es, "mask": torch.from_numpy(masks_on_grid(reference)).to(device)}
    tokens = model.encode(x.to(device), keep_tokens=keep, **leaked)[0].cpu().numpy()
    header = container.header_for(reference.case, reference.prepared, model.layout)
    return container.pack(tokens, header)


def masks_on_grid(reference: Reference) -> np.ndarray:
    """Ground truth on the model grid, (1, S, S, D, T) uint8, for a model that leaks it.

    Raises:
        ValueError: where ED or ES is not labelled.
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


def decode(model: TiTok, tokens: np.ndarray, header: Header, options: SamplerOptions | None = None) -> np.ndarray:
    """A cine's tokens, and nothing else, to (S, S, D, T); a colour tokenizer's channels are averaged."""
    batch = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
    grid = None if header.layout.has_grid else (header.slices, header.phases)
    image = model.decode_tokens(batch, **(options or SamplerOptions())._asdict(), grid=grid)
    return image[0].float().mean(0).cpu().numpy()


def decompress(model: TiTok, data: bytes, options: SamplerOptions | None = None) -> np.ndarray:
    """A compressed file, and nothing else, to (S, S, D, T)."""
    return decode(model, *container.unpack(data), options)


def tokens_in(data: bytes) -> int:
    """How many ids a compressed file holds."""
    tokens, header = container.unpack(data)
    return header.layout.transmitted(tokens, header.slices, header.phases)


def field_of(model: TiTok) -> str:
    """The model's field in words."""
    size = model.config.image_size
    words = {"crop": f"{size} x {size} native pixels around the heart", "fit": f"the whole image, {size} pixels a side"}
    return words[model.config.geometry]
