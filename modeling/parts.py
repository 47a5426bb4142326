"""The parts of a model, and what each does with the others' help; modeling/titok.py makes a model of them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from modeling.adapters import Adapters, to_gray
from modeling.config import ModelConfig
from modeling.dit import DiT
from modeling.heart.phases import at_phases, cycle, key_phases
from modeling.heart.segmenter import LV, FrameSegmenter
from modeling.layers.recompute import recomputed
from modeling.quantizer.vq import Quantized
from modeling.resampler import SequenceResampler
from modeling.tokenizer import Tokenizer, transformer_size
from modeling.tokens import NOT_SENT, FrameLayout, SequenceLayout, first_of
from utils.checkpoint import hash_weights
from utils.config import registry

FRAME_PATH = ("adapters.", "tokenizer.latent_tokens", "tokenizer.encoder.", "tokenizer.quantize.")
RESAMPLER = ("resampler.",)
MAKES_TOKENS = FRAME_PATH + RESAMPLER


class Read(NamedTuple):
    """What a training pass encodes of G = B * D slices.

    Args:
        context: (G, T, K, token_size) what the decoder reads.
        ids: (G * T, K), or (B, N) of whole cines; -1 in padding.
        latents: (G, T, K, E) before projection; None where the ids were known.
        quantized: of all G * T frames; likewise.
    """

    context: Tensor
    ids: Tensor
    latents: Tensor | None = None
    quantized: Quantized | None = None


class Parts(nn.Module):
    """Adapters, tokenizer, resampler, DiT and conditioning, as far as the config asks for them.

    Args:
        config: the model as plain data.

    Raises:
        ValueError: when a part refuses its options.
    """

    frames_per_chunk = 128
    recompute_frames = 0  # of a chunk whose activations are computed again in the backward pass; 0: all are kept
    tokenizer: Tokenizer  # None where the model only segments
    layout: FrameLayout | SequenceLayout

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.taught_by: list[str] = []
        vq_model = config.tokenizer.vq_model
        chosen = config.conditioning
        self.conditioning = registry.build(
            "modeling.conditioning", chosen.get("name", "none"), chosen, "model.conditioning"
        )
        self.adapters = self.resampler = self.dit = None
        if config.decoder == "none":
            self.tokenizer = None  # type: ignore[assignment]
            return
        self.tokenizer = Tokenizer(vq_model, with_decoder=config.keeps_decoder)
        width = transformer_size(vq_model.vit_enc_model_size)[0]
        self.adapters = Adapters(width, config.adapters) if config.channels == 1 else None
        anatomy_width = self.conditioning.width
        if config.layout == "sequence":
            self.resampler = SequenceResampler(
                width,
                vq_model.num_latent_tokens,
                vq_model.token_size,
                vq_model.use_l2_norm,
                anatomy_width,
                config.sequence,
            )
            anatomy_width = 0  # anatomy is inside the cine's tokens, and reaches the decoder through them
        if config.decoder == "dit":
            token_rms = vq_model.token_size**-0.5 if vq_model.use_l2_norm else 1.0
            self.dit = DiT(
                config.image_size,
                vq_model.num_latent_tokens,
                vq_model.token_size,
                token_rms,
                2 * self.conditioning.num_tokens,
                anatomy_width,
                config.dit,
            )
        if self.resampler is not None:
            self.layout = SequenceLayout(config.sequence.num_tokens, self.resampler.fsq.codebook_size)
            return
        self.layout = FrameLayout(
            vq_model.num_latent_tokens,
            vq_model.codebook_size,
            self.conditioning.num_tokens,
            self.conditioning.codebook_size,
        )

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the weights."""
        return next(self.parameters()).dtype

    @property
    def segmenter(self) -> FrameSegmenter | None:
        """The conditioning's segmenter, where it has one."""
        return self.conditioning.segmenter

    @property
    def num_codes(self) -> int:
        """Entries of the codebook; 0 in a model that only segments."""
        return 0 if self.tokenizer is None else self.layout.codebook_size

    def recompute(self, frames: int) -> None:
        """Let training keep the activations of a few frames at a time, and compute the others again.

        Args:
            frames: of a chunk; the DiT takes whole slices, at least one. 0 keeps all activations.

        Raises:
            ValueError: for a negative number.
        """
        if frames < 0:
            raise ValueError(f"training.recompute_frames is {frames}: expected a number of frames, or 0 to keep all")
        self.recompute_frames = frames
        if self.segmenter is not None:
            self.segmenter.recompute_frames = frames

    def bypass_quantizer(self, bypass: bool) -> None:
        """Let latents pass unchanged, or quantize them."""
        if self.tokenizer is not None:
            self.tokenizer.quantize.bypass = bypass

    def check_tokens(self) -> None:
        """Raise ValueError in a model that only segments."""
        if self.tokenizer is None:
            raise ValueError("this model only segments (model.decoder none): it has no tokens; load a trained stage")

    def latents(self, frames: Tensor, phase: Tensor) -> Tensor:  # (G, T, C, H, W), (G, T)
        """Latents before projection, (G, T, K, E)."""
        latents = recomputed(self.latents_of_frames, self.recompute_frames, frames.flatten(0, 1))
        latents = latents.unflatten(0, frames.shape[:2])
        if self.adapters is not None:
            latents = self.adapters.along_phases(latents, phase)
        return latents

    def latents_of_frames(self, pixels: Tensor) -> Tensor:  # (N, C, H, W)
        """Latents of single frames, that know no neighbours, (N, K, E)."""
        return self.tokenizer.latents(pixels if self.adapters is None else self.adapters.to_rgb(pixels))

    def latents_of_cine(self, x: Tensor) -> Tensor:  # (B, C, H, W, D, T)
        """Latents of all frames (B, D, T, K, E), about `frames_per_chunk` frames at a time, whole slices."""
        slices, phases = x.shape[4:]
        frames = rearrange(x, "b c h w d t -> (b d) t c h w").to(self.dtype)
        phase = cycle(phases, x.device)
        parts = frames.split(max(1, self.frames_per_chunk // phases))
        latents = torch.cat([self.latents(part, phase.expand(len(part), -1)) for part in parts])
        return latents.unflatten(0, (-1, slices))

    def is_frozen(self, prefixes: tuple[str, ...] = MAKES_TOKENS) -> bool:
        """True when no parameter below these prefixes trains; without any, none of the path from image to tokens."""
        return not any(p.requires_grad for name, p in self.named_parameters() if name.startswith(prefixes))

    def context(self, ids: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """What the decoder reads of G slices' tokens; of a token that was not sent, nothing.

        Args:
            ids: (G, T, K) of frames, or (G, N) of the cine that each slice belongs to; -1 where not sent.
            position: (G,) of the slices, in (0, 1).
            phase: (G, T) in cycles.

        Returns:
            (G, T, K, token_size).
        """
        if self.resampler is not None:
            return self.resampler.context(ids, position[:, None], phase)[:, 0]
        vectors = self.tokenizer.quantize.lookup(ids.flatten(0, 1).clamp(min=0))  # (G * T, token_size, 1, K)
        vectors = vectors.squeeze(2).transpose(1, 2).unflatten(0, ids.shape[:2])
        return (vectors * (ids != NOT_SENT).unsqueeze(-1)).to(self.dtype)

    def teachers(self) -> list[str]:
        """Hashes of all segmenters that taught this model, in this run or in one that it started from; its own too."""
        own = [] if self.segmenter is None else [hash_weights(self.segmenter.state_dict())]
        return sorted({*self.taught_by, *own})

    def tokens_hash(self) -> str:
        """Hash of all weights that the tokens of an image depend on."""
        return hash_weights({k: v for k, v in self.state_dict().items() if k.startswith(MAKES_TOKENS)})

    def own_decode(self, context: Tensor) -> Tensor:  # (G, T, K, token_size)
        """The tokenizer's own decoder, (G, T, C, H, W)."""
        vectors = context.flatten(0, 1).transpose(1, 2).unsqueeze(2)  # (G * T, token_size, 1, K)
        if self.recompute_frames and torch.is_grad_enabled():
            pixels = recomputed(self.pixels, self.recompute_frames, vectors)
        else:
            pixels = torch.cat([self.pixels(part) for part in vectors.split(self.frames_per_chunk)])
        return pixels.unflatten(0, context.shape[:2])

    def pixels(self, vectors: Tensor) -> Tensor:  # (N, token_size, 1, K)
        """The tokenizer's picture of single frames, (N, C, H, W)."""
        pixels = self.tokenizer.decode(vectors)
        return to_gray(pixels) if self.config.channels == 1 else pixels

    def draft(self, context: Tensor) -> Tensor | None:  # (G, T, K, token_size)
        """The tokenizer's picture of each frame, (G, T, 1, H, W) in [-1, 1], where the DiT corrects one."""
        return 2 * self.own_decode(context) - 1 if self.config.dit.draft else None

    def see_anatomy(
        self, x: Tensor, ed: Tensor | int | None, es: Tensor | int | None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ED and ES of cines (B,) each, and their anatomy ids (B, D, 2 * A).

        Args:
            x: (B, C, H, W, D, T).
            ed: phase of end-diastole, where it is known.
            es: phase of end-systole, where it is known.
            mask: (B, H, W, D, T) ground truth, for a conditioning that leaks it.
        """
        lv = self.lv_curve(x) if ed is None or es is None else None
        ed, es = key_phases(x, ed, es, lv)
        both = torch.stack([ed, es], 1)
        keys = at_phases(x, both).flatten(0, 2).to(self.dtype).split(self.frames_per_chunk)  # (B * D * 2, C, H, W)
        masks: Sequence[Tensor | None] = [None] * len(keys)
        if mask is not None:
            masks = at_phases(mask[:, None], both).flatten(0, 3).split(self.frames_per_chunk)
        anatomy = torch.cat([self.conditioning.encode(*part) for part in zip(keys, masks, strict=True)])
        return ed, es, anatomy.view(len(x), x.shape[4], -1)

    def lv_curve(self, x: Tensor) -> Tensor | None:  # (B, C, H, W, D, T)
        """Segmented pixels of the LV at each phase, (B, T); None without a segmenter."""
        if self.segmenter is None:
            return None
        frames = rearrange(x, "b c h w d t -> (b t d) c h w").to(self.dtype)
        areas = [(self.segmenter.labels(part) == LV).sum((1, 2)) for part in frames.split(self.frames_per_chunk)]
        return torch.cat(areas).view(len(x), x.shape[5], -1).sum(2)

    def nothing_sent(self, count: int, device: torch.device) -> Tensor:
        """Anatomy ids of slices without anatomy, (count, 2 * A)."""
        return torch.full((count, 2 * self.conditioning.num_tokens), NOT_SENT, device=device)

    def observe(
        self, image: Tensor, key_frames: Tensor | None, sent: Tensor | None, masks: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Context (B * D, 2 * A, width) and logits (B, D, 2, 4, H, W) of a batch; None where there is none."""
        batch, slices = image.shape[0], image.shape[4]
        if key_frames is None:
            return self.conditioning.context(self.nothing_sent(batch * slices, image.device)), None
        if sent is None:
            sent = torch.ones(batch, dtype=torch.bool, device=image.device)
        masks = None if masks is None else masks.flatten(0, 1)
        seen = self.conditioning(at_phases(image, key_frames).flatten(0, 1), sent.repeat_interleave(slices), masks)
        if seen is None:
            return None, None
        return seen.context, None if seen.logits is None else seen.logits.unflatten(0, (batch, slices))

    def read(
        self,
        image: Tensor,  # (B, 1, H, W, D, T)
        position: Tensor,  # (B, D)
        phase: Tensor,  # (B, T)
        anatomy: Tensor | None,  # (B * D, 2 * A, width)
        ids: Tensor | None,  # (B, D, T, K)
        there: Tensor,  # (B, D) bool
        keep: Tensor | None,  # (B,)
    ) -> Read:
        """What a training pass encodes and its decoder reads; what is frozen runs in full precision, as in `encode`."""
        slices, phases = image.shape[4:]
        groups = phase.repeat_interleave(slices, dim=0)  # (G, T)
        if ids is not None:
            if keep is not None:
                ids = ids.masked_fill(~first_of(keep, ids.shape[3])[:, None, None], NOT_SENT)
            return Read(self.context(ids.flatten(0, 1), position.flatten(), groups), ids.flatten(0, 2))
        device = image.device.type
        autocast = torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=autocast and not self.is_frozen(FRAME_PATH)):
            latents = self.latents(rearrange(image, "b c h w d t -> (b d) t c h w"), groups)
            quantized = self.tokenizer.quantize_latents(latents.flatten(0, 1))
        if self.resampler is None:
            context = quantized.vectors.squeeze(2).transpose(1, 2).unflatten(0, groups.shape)
            if keep is not None:
                context = context * first_of(keep.repeat_interleave(slices), context.shape[2])[:, None, :, None]
            found = quantized.indices.masked_fill(~there.flatten().repeat_interleave(phases)[:, None], NOT_SENT)
            return Read(context, found, latents, quantized)
        with torch.autocast(device, enabled=autocast and not self.is_frozen(RESAMPLER)):
            values, found = self.resampler.compress(
                latents.unflatten(0, (-1, slices)),
                position,
                phase,
                there[..., None].expand(-1, -1, phases),
                None if anatomy is None else anatomy.unflatten(0, (-1, slices)),
            )
            sent = torch.ones_like(found, dtype=torch.bool) if keep is None else first_of(keep, found.shape[1])
            context = self.resampler.expand(values, sent, position, phase).flatten(0, 1)
        return Read(context, found, latents, quantized)
