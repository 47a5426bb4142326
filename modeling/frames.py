"""Images to tokens of the layouts `frame`, `sequence` and `image`, and back.

Axes: B batch, C channels, H and W the sides of the model grid, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from einops import rearrange
from torch import Tensor

from modeling.flow import SamplerOptions
from modeling.heart.phases import along_stack, cycle
from modeling.inputs import check_images, check_mask
from utils.layout import NOT_TRANSMITTED

if TYPE_CHECKING:
    from modeling.titok import TiTok


def encode_frames(
    model: TiTok,
    x: Tensor,
    ed: Tensor | int | None,
    es: Tensor | int | None,
    keep_tokens: int | None,
    mask: Tensor | None,
) -> Tensor:
    """See `TiTok.encode`."""
    check_images(x, model.config.channels, model.config.image_size)
    keep = model.layout.keep(keep_tokens)
    check_mask(mask, x, leaks=model.conditioning.leak is not None)
    single = x.ndim == 4
    frames = x[:, None, None] if single else rearrange(x, "b c h w d t -> b d t c h w")
    mask = None if mask is None else rearrange(mask, "b h w d t -> b d t h w")
    if model.resampler is not None:
        ids = model.encoder.cine_ids(frames, model.encoder.encode_anatomy(frames, ed, es, mask)[1])
    else:
        ids = model.encoder.frame_ids(frames, cycle(frames.shape[2], x.device).expand(len(x), -1))
    ids[..., keep:] = NOT_TRANSMITTED
    if model.resampler is not None:
        return ids
    if single:
        return ids[:, 0, 0]
    phases, anatomy = model.encoder.encode_anatomy(frames, ed, es, mask)
    key_phases = phases[:, None].expand(-1, ids.shape[1], -1)  # repeated in the row of every slice
    return model.layout.join({"key_phases": key_phases, "frames": ids, "anatomy": anatomy})


def decode_frames(model: TiTok, tokens: Tensor, options: SamplerOptions, grid: tuple[int, int] | None) -> Tensor:
    """See `TiTok.decode_tokens`."""
    single = tokens.ndim == 2 and model.resampler is None
    layout = model.layout.of_images() if single else model.layout
    if grid is not None and model.resampler is None:
        raise ValueError(f"grid = {tuple(grid)}: the shape of tokens of layout frame gives their grid; leave it out")
    slices, phases = model.config.sequence.grid_for(grid) if model.resampler is not None else layout.grid(tokens)
    layout.check(tokens, slices, phases)
    parts = layout.split(tokens, slices, phases)
    if model.resampler is not None:
        ids = tokens.repeat_interleave(slices, dim=0)  # the tokens of the cine, repeated for each slice
    else:
        ids = tokens[:, None] if single else parts["frames"].flatten(0, 1)
    anatomy = model.encoder.no_anatomy(len(ids), ids.device)
    if "anatomy" in parts:
        anatomy = parts["anatomy"].flatten(0, 1).flatten(1)
    position = along_stack(slices, ids.device).repeat(len(tokens))
    phase = cycle(phases, ids.device).expand(len(ids), -1)
    numbers = [index % slices for index in range(len(ids))]
    frames = model.decoder.decode(ids, anatomy, position, phase, options, numbers)  # (B * D, T, C, H, W)
    frames = rearrange(frames.clamp(0, 1), "(b d) t c h w -> b c h w d t", d=slices)
    return frames[..., 0, 0] if single else frames
