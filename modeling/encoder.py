"""Frame encoder: from frames to tokens.

    frames (B, D, T, C, H, W) ─► channel adapter ─► ViT encoder ─► phase adapter ─► quantizer ─► ids (B, D, T, K)
                                                                        └─► resampler ─► ids (B, N), layout `sequence`
    ED, ES ─► conditioning ─► anatomy ids (B, D, 2, A)

`TiTok.encode`, training and the token cache use the same encoder.

Axes: B batch, C channels, H height, W width, D slices, T phases of the cycle, G = B * D, K latent tokens a frame,
E width of the latents, A anatomy tokens a key frame, N tokens of a whole cine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modeling.adapters import Adapters
from modeling.draws import Draws
from modeling.heart.phases import along_stack, at_phases, cycle, key_phases
from modeling.layers.recompute import recomputed
from modeling.quantizer.vq import Quantized
from modeling.resampling.base import Resampler
from modeling.tokenizer import Tokenizer
from utils.labels import STRUCTURES
from utils.layout import NOT_TRANSMITTED
from utils.types import Batch


@dataclass
class Chunks:
    """Number of frames that a network processes at a time.

    Args:
        frames: frames at inference; slices are not divided, since phases attend to each other.
        recompute: frames of a chunk whose activations are computed again in the backward pass; 0 stores all.
    """

    frames: int = 128
    recompute: int = 0


class Encoded(NamedTuple):
    """Result of the encoder in a training pass; None for parts that the model or the batch does not have.

    Args:
        context: (B * D, T, K, token_size) vectors of the tokens, input of the decoder; None if the ids are from a token
            cache.
        ids: (B * D * T, K), or (B, N) of whole cines; -1 in padding.
        latents: (B * D, T, K, E) before projection; None with a token cache.
        quantized: quantized latents of all B * D * T frames; None with a token cache.
        anatomy: (B * D, 2 * A, width) context of the anatomy tokens.
        logits: (B, D, 2, 4, H, W) of the segmented originals at ED and ES.
    """

    context: Tensor | None = None
    ids: Tensor | None = None
    latents: Tensor | None = None
    quantized: Quantized | None = None
    anatomy: Tensor | None = None
    logits: Tensor | None = None


class FrameEncoder:
    """The encoding side of a model; the modules belong to the model.

    Args:
        tokenizer: published TiTok; None in a model that only segments.
        adapters: channel and phase adapter; None for a published tokenizer of colour images.
        conditioning: a module of modeling/conditioning.
        resampler: resampler of layout `sequence`; None in layout `frame`.
        chunks: number of frames that are encoded at a time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        adapters: Adapters | None,
        conditioning: Any,
        resampler: Resampler | None,
        chunks: Chunks,
    ) -> None:
        self.adapters, self.conditioning, self.resampler, self.chunks = adapters, conditioning, resampler, chunks
        self.tokenizer = tokenizer

    def frame_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters on the path from a frame to its ids."""
        yield self.tokenizer.latent_tokens
        for module in (self.tokenizer.encoder, self.tokenizer.quantize, self.adapters):
            yield from () if module is None else module.parameters()

    def is_frozen(self) -> bool:
        """Whether all parameters on the path from image to ids are frozen."""
        resampler = () if self.resampler is None else self.resampler.parameters()
        return not any(p.requires_grad for p in (*self.frame_parameters(), *resampler))

    def latents(self, slices: Tensor, phase: Tensor) -> Tensor:  # (G, T, C, H, W), (G, T)
        """Latents before projection of G slices, (G, T, K, E)."""
        latents = recomputed(self._latents_of_frames, self.chunks.recompute, slices.flatten(0, 1))
        latents = latents.unflatten(0, slices.shape[:2])
        return latents if self.adapters is None else self.adapters.along_phases(latents, phase)

    def _latents_of_frames(self, pixels: Tensor) -> Tensor:  # (N, C, H, W)
        """Latents of single frames, before the phase adapter, (N, K, E)."""
        return self.tokenizer.latents(pixels if self.adapters is None else self.adapters.to_rgb(pixels))

    def quantize(self, latents: Tensor) -> Quantized:  # (..., K, E)
        """Project and quantize latents; frames are flattened to N."""
        return self.tokenizer.quantize_latents(latents.flatten(0, -3))

    def frame_latents(self, frames: Tensor, phase: Tensor) -> Tensor:  # (B, D, T, C, H, W), (B, T)
        """Latents of whole cines, (B, D, T, K, E), about `chunks.frames` frames at a time."""
        slices, phases = frames.shape[1:3]
        grouped = frames.flatten(0, 1).to(self.tokenizer.latent_tokens.dtype)
        phase = phase.repeat_interleave(slices, dim=0)
        size = max(1, self.chunks.frames // phases)
        parts = [self.latents(*part) for part in zip(grouped.split(size), phase.split(size), strict=True)]
        return torch.cat(parts).unflatten(0, (-1, slices))

    def frame_codes(self, latents: Tensor) -> Tensor:  # (B, D, T, K, E)
        """Codebook vectors of the tokens of every frame, (B, D, T, K, token_size), about `chunks.frames` at a time."""
        codes = [self.quantize(part).codes for part in latents.flatten(0, 2).split(self.chunks.frames)]
        return torch.cat(codes).unflatten(0, latents.shape[:3])

    def frame_ids(self, frames: Tensor, phase: Tensor) -> Tensor:  # (B, D, T, C, H, W), (B, T) in cycles
        """Token ids of every frame, (B, D, T, K), without gradients."""
        latents = self.frame_latents(frames, phase)
        ids = [self.quantize(part).indices for part in latents.flatten(0, 2).split(self.chunks.frames)]
        return torch.cat(ids).view(latents.shape[:4])

    def cine_ids(self, frames: Tensor, anatomy: Tensor) -> Tensor:  # (B, D, T, C, H, W), (B, D, 2, A)
        """Token ids of whole cines by the resampler, (B, N), without gradients."""
        assert self.resampler is not None
        batch, slices, phases = frames.shape[:3]
        phase = cycle(phases, frames.device).expand(batch, -1)
        position = along_stack(slices, frames.device).expand(batch, -1)
        context = self.conditioning.context(anatomy.flatten(0, 1).flatten(1))  # (B * D, 2 * A, width)
        context = None if context is None else context.unflatten(0, (-1, slices))
        latents = self.frame_latents(frames, phase)
        read = self.frame_codes(latents) if self.resampler.reads == "codes" else latents
        return self.resampler.compress(read, position, phase, anatomy=context)[1]

    def encode_anatomy(
        self, frames: Tensor, ed: Tensor | int | None, es: Tensor | int | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Phases of ED and ES of cines, (B, 2), and their anatomy ids, (B, D, 2, A).

        Args:
            frames: (B, D, T, C, H, W).
            ed: phase of end-diastole, or None.
            es: phase of end-systole, or None.
            mask: (B, D, T, H, W) ground truth, for conditioning `mask` only.
        """
        dtype = self.tokenizer.latent_tokens.dtype
        lv = self._lv_curve(frames.to(dtype)) if ed is None or es is None else None
        phases = torch.stack(key_phases(frames, ed, es, lv), 1)
        keys = at_phases(frames, phases).flatten(0, 2).to(dtype).split(self.chunks.frames)  # (B * D * 2, C, H, W)
        masks: Sequence[Tensor | None] = [None] * len(keys)
        if mask is not None:
            masks = at_phases(mask, phases).flatten(0, 2).split(self.chunks.frames)
        ids = torch.cat([self.conditioning.encode(*part) for part in zip(keys, masks, strict=True)])
        return phases, ids.view(len(frames), frames.shape[1], 2, self.conditioning.num_tokens)

    def _lv_curve(self, frames: Tensor) -> Tensor | None:  # (B, D, T, C, H, W)
        """Return the number of segmented LV pixels at each phase, (B, T); None without a segmenter."""
        if self.conditioning.segmenter is None:
            return None
        parts = frames.flatten(0, 2).split(self.chunks.frames)
        areas = [(self.conditioning.segmenter.labels(part) == STRUCTURES["LV"]).sum((1, 2)) for part in parts]
        return torch.cat(areas).view(frames.shape[:3]).sum(1)

    def train(self, batch: Batch, draws: Draws) -> Encoded:
        """Encode a training batch, with gradients to all trainable parameters.

        Frozen parts run in full precision, as in `TiTok.encode`, so training uses the tokens of inference.
        """
        anatomy, logits = self._train_anatomy(batch, draws)
        if self.tokenizer is None:
            return Encoded(logits=logits)
        if batch.tokens is not None:  # from a token cache
            return Encoded(ids=draws.kept(batch.tokens).flatten(0, 2), anatomy=anatomy, logits=logits)
        device, lowers = batch.image.device.type, torch.is_autocast_enabled(batch.image.device.type)
        slices, phases = batch.image.shape[1:3]
        frozen = not any(p.requires_grad for p in self.frame_parameters())
        with torch.autocast(device, enabled=lowers and not frozen):
            latents = self.latents(batch.image.flatten(0, 1), batch.phase.repeat_interleave(slices, dim=0))
            quantized = self.quantize(latents)
        if self.resampler is None:
            context = quantized.vectors.squeeze(2).transpose(1, 2).unflatten(0, latents.shape[:2])
            if draws.keep is not None:
                kept = draws.first_tokens(context.shape[2]).repeat_interleave(slices, dim=0)  # (B * D, K)
                context = context * kept[:, None, :, None]
            ids = quantized.indices.masked_fill(~batch.valid_frames()[:, None], NOT_TRANSMITTED)
            return Encoded(context, ids, latents, quantized, anatomy, logits)
        read = quantized.codes.unflatten(0, latents.shape[:2]) if self.resampler.reads == "codes" else latents
        with torch.autocast(device, enabled=lowers and any(p.requires_grad for p in self.resampler.parameters())):
            values, ids = self.resampler.compress(
                read.unflatten(0, (-1, slices)),
                batch.slice_position,
                batch.phase,
                batch.valid()[..., None].expand(-1, -1, phases),
                None if anatomy is None else anatomy.unflatten(0, (-1, slices)),
            )
            kept = torch.ones_like(ids, dtype=torch.bool) if draws.keep is None else draws.first_tokens(ids.shape[1])
            context = self.resampler.expand(values, kept, batch.slice_position, batch.phase).flatten(0, 1)
        return Encoded(context, ids, latents, quantized, anatomy, logits)

    def _train_anatomy(self, batch: Batch, draws: Draws) -> tuple[Tensor | None, Tensor | None]:
        """Context (B * D, 2 * A, width) and logits (B, D, 2, 4, H, W) of a batch; None without conditioning."""
        count, slices = batch.image.shape[:2]
        if not batch.has_key_frames:
            return self.conditioning.context(self.no_anatomy(count * slices, batch.image.device)), None
        masks = batch.key_labels()[0].flatten(0, 1) if self.conditioning.leak else None
        transmitted = draws.anatomy.repeat_interleave(slices)
        keys = at_phases(batch.image, batch.key_frames).flatten(0, 1)  # (B * D, 2, C, H, W)
        anatomy = self.conditioning(keys, transmitted, masks)
        if anatomy is None:
            return None, None
        return anatomy.context, None if anatomy.logits is None else anatomy.logits.unflatten(0, (count, slices))

    def no_anatomy(self, count: int, device: torch.device) -> Tensor:
        """Return the anatomy ids, all -1, of slices without transmitted anatomy, (count, 2 * A)."""
        return torch.full((count, 2 * self.conditioning.num_tokens), NOT_TRANSMITTED, device=device)
