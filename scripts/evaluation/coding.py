"""Compress a patient with a model, and decompress."""

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
    """Load a model for evaluation.

    Args:
        folder: output folder of a training run.
        device: device of the model.
        batch_frames: number of frames per batch.
    Returns:
        The model in eval mode.
    """
    model = TiTok.from_pretrained(folder).to(device).eval()
    model.chunks.frames = batch_frames
    return model


def compress(model: TiTok, reference: Reference, keep: int | None = None) -> bytes:
    """Compress one patient.

    Args:
        model: the model.
        reference: the original of the patient.
        keep: number of transmitted tokens per frame or cine; None for all.
    Returns:
        The bytes of the compressed file.
    """
    x = torch.from_numpy(reference.prepared.image)[None].expand(-1, model.config.channels, -1, -1, -1, -1)
    device, case = next(model.parameters()).device, reference.case
    leaked: dict[str, Any] = {}
    if model.conditioning.leak is not None:
        leaked = {"ed": case.ed, "es": case.es, "mask": torch.from_numpy(masks_on_grid(reference)).to(device)}
    tokens = model.encode(x.to(device), keep_tokens=keep, **leaked)[0].cpu().numpy()
    header = container.header_for(reference.case, reference.prepared, model.layout)
    return container.pack(tokens, header)


def masks_on_grid(reference: Reference) -> np.ndarray:
    """Return the ground truth on the model grid, for a model that encodes it (conditioning mask).

    Args:
        reference: the original of the patient.
    Returns:
        (1, S, S, D, T) uint8.
    Raises:
        ValueError: when ED or ES is not labelled.
    """
    case = reference.case
    if case.ed not in case.masks or case.es not in case.masks:
        raise ValueError("the model encodes ground truth (conditioning mask), and ED or ES has none; exclude the case")
    grid = np.zeros(reference.prepared.image.shape, np.uint8)
    for phase, labels in case.masks.items():
        on_grid = apply_mask(labels.transpose(2, 0, 1), reference.prepared.geometry)  # (D, S, S)
        grid[0, ..., phase] = on_grid.transpose(1, 2, 0)
    return grid


def decode(model: TiTok, tokens: np.ndarray, header: Header, options: SamplerOptions | None = None) -> np.ndarray:
    """Decode a cine from its tokens alone.

    Args:
        model: the model.
        tokens: integers of the shape of the layout, -1 if not transmitted.
        header: header of the compressed file; only its layout, D and T are used.
        options: options of the sampler; None for the defaults.
    Returns:
        (S, S, D, T) float32; the mean of the channels of a colour tokenizer.
    """
    batch = torch.from_numpy(tokens)[None].to(next(model.parameters()).device)
    grid = None if header.layout.has_grid else (header.slices, header.phases)
    image = model.decode_tokens(batch, **(options or SamplerOptions())._asdict(), grid=grid)
    return image[0].float().mean(0).cpu().numpy()


def decompress(model: TiTok, data: bytes, options: SamplerOptions | None = None) -> np.ndarray:
    """Decode a cine from its compressed file alone.

    Args:
        model: the model.
        data: bytes of the compressed file.
        options: options of the sampler; None for the defaults.
    Returns:
        (S, S, D, T) float32.
    """
    return decode(model, *container.unpack(data), options)


def tokens_in(data: bytes) -> int:
    """Return the number of transmitted ids in a compressed file."""
    tokens, header = container.unpack(data)
    return header.layout.transmitted(tokens, header.slices, header.phases)


def field_of(model: TiTok) -> str:
    """Describe the model's field in words, for the report."""
    size = model.config.image_size
    words = {
        "crop": f"{size} x {size} native pixels around the heart",
        "fit": f"the whole image, {size} x {size} pixels",
    }
    return words[model.config.geometry]
