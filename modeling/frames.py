"""Images to tokens of the layouts `frame`, `sequence` and `image`, and back.

Axes: B batch, C channels, H and W the sides of the model grid, D slices, T phases of the cardiac cycle.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from modeling.config import ModelConfig
from modeling.decoder import FrameDecoder
from modeling.encoder import FrameEncoder
from modeling.flow import SamplerOptions
from modeling.heart.phases import along_stack, cycle
from modeling.inputs import check_images, check_mask
from utils.layout import NOT_TRANSMITTED, TokenLayout


def encode_frames(
    encoder: FrameEncoder,
    layout: TokenLayout,
    config: ModelConfig,
    x: Tensor,
    ed: Tensor | int | None,
    es: Tensor | int | None,
    keep_tokens: int | None,
    mask: Tensor | None,
) -> Tensor:
    """See `TiTok.encode`."""
    check_images(x, config.channels, config.image_size)
    keep = layout.keep(keep_tokens)
    check_mask(mask, x, leaks=encoder.conditioning.leak is not None)
    single = x.ndim == 4
    frames = x[:, None, None] if single else rearrange(x, "b c h w d t -> b d t c h w")
    mask = None if mask is None else rearrange(mask, "b h w d t -> b d t h w")
    if encoder.resampler is not None:
        ids = encoder.cine_ids(frames, encoder.encode_anatomy(frames, ed, es, mask)[1])
    else:
        ids = encoder.frame_ids(frames, cycle(frames.shape[2], x.device).expand(len(x), -1))
    ids[..., keep:] = NOT_TRANSMITTED
    if encoder.resampler is not None:
        return ids
    if single:
        return ids[:, 0, 0]
    phases, anatomy = encoder.encode_anatomy(frames, ed, es, mask)
    key_phases = phases[:, None].expand(-1, ids.shape[1], -1)  # repeated in the row of every slice
    return layout.join({"key_phases": key_phases, "frames": ids, "anatomy": anatomy})


def decode_frames(
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    layout: TokenLayout,
    config: ModelConfig,
    tokens: Tensor,
    options: SamplerOptions,
    grid: tuple[int, int] | None,
) -> Tensor:
    """See `TiTok.decode_tokens`."""
    single = tokens.ndim == 2 and encoder.resampler is None
    layout = layout.of_images() if single else layout
    if grid is not None and encoder.resampler is None:
        raise ValueError(f"grid = {tuple(grid)}: the shape of tokens of layout frame gives their grid; leave it out")
    slices, phases = config.sequence.grid_for(grid) if encoder.resampler is not None else layout.grid(tokens)
    layout.check(tokens, slices, phases)
    parts = layout.split(tokens, slices, phases)
    if encoder.resampler is not None:
        ids = tokens.repeat_interleave(slices, dim=0)  # the tokens of the cine, repeated for each slice
    else:
        ids = tokens[:, None] if single else parts["frames"].flatten(0, 1)
    anatomy = encoder.no_anatomy(len(ids), ids.device)
    if "anatomy" in parts:
        anatomy = parts["anatomy"].flatten(0, 1).flatten(1)
    position = along_stack(slices, ids.device).repeat(len(tokens))
    phase = cycle(phases, ids.device).expand(len(ids), -1)
    numbers = [index % slices for index in range(len(ids))]
    frames = decoder.decode(ids, anatomy, position, phase, options, numbers)  # (B * D, T, C, H, W)
    frames = rearrange(frames.clamp(0, 1), "(b d) t c h w -> b c h w d t", d=slices)
    return frames[..., 0, 0] if single else frames
