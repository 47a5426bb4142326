"""Frame decoder: from tokens to frames.

    ids ─► codebook (layout `sequence`: resampler) ─► context ─► tokenizer's own decoder ─► frames, or a draft
    draft, context, context of the anatomy ids, x_t, t ─► DiT ─► frames

Axes: G slices of a batch, T phases of the cardiac cycle, K latent tokens a frame, C channels, H height, W width.
"""

from typing import Any

import torch
from torch import Tensor

from modeling import flow
from modeling.adapters import to_gray
from modeling.dit import DiT
from modeling.draws import Draws
from modeling.encoder import Chunks, Encoded
from modeling.layers.recompute import recomputed
from modeling.resampling.base import Resampler
from modeling.tokenizer import Tokenizer
from utils.layout import NOT_TRANSMITTED
from utils.types import Batch


class FrameDecoder:
    """The decoding side of a model; the modules belong to the model.

    Args:
        tokenizer: codebook and, if the model has it, decoder of the tokenizer.
        conditioning: a module of modeling/conditioning.
        resampler: resampler of layout `sequence`; None in layout `frame`.
        dit: the DiT; None if the decoder of the tokenizer decodes the frames.
        draft: whether the DiT corrects the frames of the tokenizer's decoder.
        channels: C, 1 for MRI, 3 for a published tokenizer.
        chunks: number of frames that are decoded at a time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        conditioning: Any,
        resampler: Resampler | None,
        dit: DiT | None,
        draft: bool,
        channels: int,
        chunks: Chunks,
    ) -> None:
        self.tokenizer, self.conditioning, self.resampler, self.dit = tokenizer, conditioning, resampler, dit
        self.drafts, self.channels, self.chunks = draft, channels, chunks

    def context(self, ids: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """Return the codebook vectors of the tokens of G slices; 0 for a token that is not transmitted.

        Args:
            ids: (G, T, K) of frames, or (G, N) of the cine that each slice belongs to; -1 where not transmitted.
            position: (G,) of the slices, in (0, 1).
            phase: (G, T) in cycles.

        Returns:
            (G, T, K, token_size).
        """
        if self.resampler is not None:
            context = self.resampler.context(ids, position[:, None], phase)[:, 0]
            return context.to(self.tokenizer.latent_tokens.dtype)
        vectors = self.tokenizer.quantize.lookup(ids.flatten(0, 1).clamp(min=0))  # (G * T, token_size, 1, K)
        vectors = vectors.squeeze(2).transpose(1, 2).unflatten(0, ids.shape[:2])
        return (vectors * (ids != NOT_TRANSMITTED).unsqueeze(-1)).to(self.tokenizer.latent_tokens.dtype)

    def tokenizer_frames(self, context: Tensor) -> Tensor:  # (G, T, K, token_size)
        """Frames of the tokenizer's own decoder, (G, T, C, H, W)."""
        vectors = context.flatten(0, 1).transpose(1, 2).unsqueeze(2)  # (G * T, token_size, 1, K)
        if self.chunks.recompute and torch.is_grad_enabled():
            frames = recomputed(self._frames, self.chunks.recompute, vectors)
        else:
            frames = torch.cat([self._frames(part) for part in vectors.split(self.chunks.frames)])
        return frames.unflatten(0, context.shape[:2])

    def _frames(self, vectors: Tensor) -> Tensor:  # (N, token_size, 1, K)
        """Single frames, (N, C, H, W)."""
        frames = self.tokenizer.decode(vectors)
        return to_gray(frames) if self.channels == 1 else frames

    def draft(self, context: Tensor) -> Tensor | None:  # (G, T, K, token_size)
        """Return the draft for the DiT, (G, T, 1, H, W) in [-1, 1]; None for a DiT without draft."""
        return 2 * self.tokenizer_frames(context) - 1 if self.drafts else None

    def train(self, batch: Batch, encoded: Encoded, draws: Draws) -> Tensor:
        """The decoded frames x̂ of a training batch, (B, D, T, 1, H, W), not clamped."""
        slices, phases = batch.image.shape[1:3]
        phase, context = batch.phase.repeat_interleave(slices, dim=0), encoded.context
        if context is None:  # the ids are from a token cache
            assert encoded.ids is not None
            ids = encoded.ids.unflatten(0, (len(phase), phases))
            context = self.context(ids, batch.slice_position.flatten(), phase)
        if self.dit is None:
            frames = self.tokenizer_frames(context)
        else:
            noise = torch.zeros_like(batch.image) if draws.noise is None else draws.noise
            frames = recomputed(
                self.dit,
                self.chunks.recompute
                and max(1, self.chunks.recompute // phases),  # whole slices, since phases attend to each other
                flow.interpolate(2 * batch.image - 1, noise, draws.t).flatten(0, 1),
                draws.t.repeat_interleave(slices),
                context,
                batch.slice_position.flatten(),
                phase,
                None if self.resampler is not None else encoded.anatomy,
                self.draft(context),
            )
            frames = (frames + 1) / 2
        return frames.float().unflatten(0, (-1, slices))

    def decode(
        self,
        ids: Tensor,  # (G, T, K) or (G, N)
        anatomy: Tensor,  # (G, 2 * A) ids
        position: Tensor,  # (G,)
        phase: Tensor,  # (G, T)
        options: flow.SamplerOptions,
        numbers: list[int],  # of the G slices in their stacks
    ) -> Tensor:
        """Decode G slices, (G, T, C, H, W), about `chunks.frames` frames at a time."""
        size = max(1, self.chunks.frames // phase.shape[1])
        parts = [slice(first, first + size) for first in range(0, len(ids), size)]
        decoded = [self._decode(ids[p], anatomy[p], position[p], phase[p], options, numbers[p]) for p in parts]
        return torch.cat(decoded)

    def _decode(
        self,
        ids: Tensor,
        anatomy: Tensor,
        position: Tensor,
        phase: Tensor,
        options: flow.SamplerOptions,
        numbers: list[int],
    ) -> Tensor:
        """One chunk of `decode`."""
        context = self.context(ids, position, phase)
        if self.dit is None:
            return self.tokenizer_frames(context)
        dit, draft = self.dit, self.draft(context)
        heart = None if self.resampler is not None else self.conditioning.context(anatomy)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return dit(x, t, context, position, phase, heart, draft)

        size = self.tokenizer.config.image_size
        like = context.new_empty((*phase.shape, 1, size, size))
        return (flow.decode(predict, like, options, numbers) + 1) / 2
