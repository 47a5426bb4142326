"""TiTok-MRI's face: a 4-D cine to tokens and back. Composes the parts and holds no math of its own.

    x (B, C, H, W, D, T) ─► adapters ─► tokenizer ─► tokens (B, D, 2 + T*K + 2*A) ─► decoder (dit | titok) ─► x̂

A generative decoder may invent anatomy: research use only, not a medical device.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from modeling import flow
from modeling.config import ModelConfig
from modeling.parts import Parts
from modeling.phases import at_phases, cycle, key_phases
from modeling.prediction import Prediction
from modeling.pretrained import read_pretrained, write_pretrained, write_published
from modeling.segmenter import Judge
from modeling.tokens import NOT_SENT, TokenParts, check_dtype, check_images, check_knobs, check_range
from utils.device import exact_float32


class TiTok(Parts):
    """A whole model; see `Parts` for what it is made of."""

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None, cache_dir: str | None = None) -> "TiTok":
        """Load a trained TiTok-MRI model or a published TiTok tokenizer.

        Args:
            source: a folder, a `.bin` of TiTok's repository with its YAML beside it, or a Hub id (modeling/hub.py).
            revision: of a Hub id, a commit, tag or branch.
            cache_dir: where downloads are kept; the Hub's own cache (HF_HOME) when not given.

        Returns:
            The model in eval mode; C is 1 for TiTok-MRI and 3 for a published tokenizer.

        Raises:
            FileNotFoundError: when the weights cannot be had.
            ValueError: when config and weights do not fit key for key, or the tokens are continuous.
        """
        return read_pretrained(cls, ModelConfig, source, revision, cache_dir).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, each whole or not at all."""
        write_pretrained(Path(folder), asdict(self.config), self.state_dict())

    def save_tokenizer(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the tokenizer alone in the layout of the published ones, without the adapters."""
        write_published(Path(folder), asdict(self.config.tokenizer.vq_model), self.state_dict(), dtype)

    @torch.inference_mode()
    @exact_float32()
    def encode(self, x: Tensor, ed: Tensor | int | None = None, es: Tensor | int | None = None) -> Tensor:
        """Images to tokens, in the precision of the weights: `model.to(torch.bfloat16)` is faster and changes some.

        Args:
            x: (B, C, H, W, D, T) or (B, C, H, W), in [0, 1], H = W = image_size.
            ed: phase of end-diastole, an int or (B,); chosen when not given.
            es: phase of end-systole; chosen when not given.

        Returns:
            (B, D, 2 + T*K + 2*A) int64, or (B, K) for single images.

        Raises:
            ValueError: for a wrong size, type or range, NaN, or a phase that is not there.
        """
        self.check_tokens()
        check_images(x, self.config.channels, self.config.image_size)
        single = x.ndim == 4
        if single:
            x = x[..., None, None]
        batch, slices, phases = x.shape[0], x.shape[4], x.shape[5]
        frames = rearrange(x, "b c h w d t -> (b d) t c h w").to(self.dtype)
        phase = cycle(phases, x.device)
        chunk = max(1, self.frames_per_chunk // phases)
        ids = [self.quantize(part, phase.expand(len(part), -1))[1].indices for part in frames.split(chunk)]
        ids = torch.cat(ids).view(batch, slices, phases, -1)
        if single:
            return ids[:, 0, 0]
        lv = self.lv_curve(x) if ed is None or es is None else None
        ed, es = key_phases(x, ed, es, lv)
        keys = at_phases(x, torch.stack([ed, es], 1)).flatten(0, 2).to(self.dtype)  # (B * D * 2, C, H, W)
        anatomy = torch.cat([self.conditioning.encode(part) for part in keys.split(self.frames_per_chunk)])
        anatomy = anatomy.view(batch, slices, -1)
        return self.layout.pack(TokenParts(ed, es, ids, anatomy))

    @torch.inference_mode()
    def decode_tokens(self, tokens: Tensor, steps: int = 1, realism: float = 0.0, seed: int | None = None) -> Tensor:
        """Tokens alone to images.

        Args:
            tokens: (B, D, 2 + T*K + 2*A) or (B, K) int64, as `encode` returns them.
            steps: network evaluations of the sampled part; 1 with realism 0.
            realism: a in [0, 1]; the result is x̂ + a (sample - x̂), where x̂ is the one-step decode of highest PSNR.
            seed: seed of the sampled part.

        Returns:
            (B, C, H, W, D, T) or (B, C, H, W), in [0, 1].

        Raises:
            ValueError: for tokens that this model cannot have written, or knobs that contradict each other.
        """
        self.check_tokens()
        check_knobs(self.config.decoder, steps, realism)
        single = tokens.ndim == 2
        if single:
            check_dtype(tokens)
            if tokens.shape[1] != self.layout.num_tokens:
                raise ValueError(f"tokens of shape {tuple(tokens.shape)}: expected (B, {self.layout.num_tokens})")
            check_range(tokens, self.layout.codebook_size, "latent token")
            ids = tokens[:, None, None]
            anatomy = tokens.new_full((len(tokens), 1, 2 * self.layout.num_anatomy), NOT_SENT)
        else:
            _, _, ids, anatomy = self.layout.unpack(tokens)
        batch, slices, phases = ids.shape[:3]
        position = ((torch.arange(slices, device=ids.device) + 0.5) / slices).repeat(batch)
        phase = cycle(phases, ids.device).expand(batch * slices, -1)
        chunk = max(1, self.frames_per_chunk // phases)
        parts = zip(ids.flatten(0, 1).split(chunk), anatomy.flatten(0, 1).split(chunk),
                    position.split(chunk), phase.split(chunk), strict=True)  # fmt: skip
        knobs = (steps, realism, seed or 0)
        decoded = [self.decode_groups(*part, *knobs, first=i * chunk) for i, part in enumerate(parts)]
        frames = rearrange(torch.cat(decoded), "(b d) t c h w -> b c h w d t", b=batch).clamp(0, 1)
        return frames[..., 0, 0] if single else frames

    def decode_groups(
        self,
        ids: Tensor,  # (G, T, K)
        anatomy: Tensor,  # (G, 2 * A)
        position: Tensor,  # (G,)
        phase: Tensor,  # (G, T)
        steps: int,
        realism: float,
        seed: int,
        first: int,
    ) -> Tensor:
        """Decode the slices numbered from `first`, (G, T, C, H, W)."""
        vectors = self.lookup(ids.flatten(0, 1)).to(self.dtype)
        if self.dit is None:
            return self.own_decode(vectors).unflatten(0, ids.shape[:2])
        context = vectors.squeeze(2).transpose(1, 2).unflatten(0, ids.shape[:2])  # (G, T, K, token_size)
        seen, draft = self.conditioning.context(anatomy), self.draft(vectors, len(ids))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.dit(x, t, context, position, phase, seen, draft)  # type: ignore[misc]

        like = vectors.new_empty((*ids.shape[:2], 1, self.config.image_size, self.config.image_size))
        mean = flow.posterior_mean(predict, like)
        if realism > 0:
            noise = flow.seeded_noise(like, seed, first)
            mean = mean + realism * (flow.euler(predict, noise, steps) - mean)
        return (mean + 1) / 2

    def forward(
        self,
        image: Tensor,  # (B, 1, H, W, D, T)
        slice_position: Tensor,  # (B, D)
        phase: Tensor,  # (B, T)
        t: Tensor,  # (B,)
        noise: Tensor,  # like image
        key_frames: Tensor | None = None,  # (B, 2) places of ED and ES along T
        sent: Tensor | None = None,  # (B,) bool, whose anatomy reaches the decoder; all when not given
        ids: Tensor | None = None,  # (B, D, T, K) tokens of the image where they are known; encoded when not given
    ) -> Prediction:
        """One training pass; gradients flow wherever parameters are trainable."""
        context, logits = self.observe(image, key_frames, sent)
        if self.tokenizer is None:
            return Prediction(image, None, t, t == 0, logits=logits)
        slices, phases = image.shape[4:]
        groups = phase.repeat_interleave(slices, dim=0)  # (G, T)
        frames = rearrange(image, "b c h w d t -> (b d) t c h w")
        latents = quantized = None
        if ids is None:
            device = image.device.type
            with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not self.tokenizer_is_frozen()):
                latents, quantized = self.quantize(frames, groups)  # frozen: in full precision, as encode does it
            vectors, tokens = quantized.vectors, quantized.indices
        else:
            tokens = ids.flatten(0, 2)
            vectors = self.lookup(tokens)
        codebook = self.tokenizer.quantize.codebook()
        if self.dit is None:
            x_hat = self.own_decode(vectors).unflatten(0, (len(frames), phases))
            t = torch.zeros_like(t)
        else:
            context_tokens = vectors.squeeze(2).transpose(1, 2).unflatten(0, (len(frames), phases))
            noisy = flow.interpolate(2 * image - 1, noise, t)
            x_hat = self.dit(
                rearrange(noisy, "b c h w d t -> (b d) t c h w"),
                t.repeat_interleave(slices),
                context_tokens,
                slice_position.flatten(),
                groups,
                context,
                self.draft(vectors, len(frames)),
            )
            x_hat = (x_hat + 1) / 2
        x_hat = rearrange(x_hat.float(), "(b d) t c h w -> b c h w d t", d=slices)
        judge = None
        if self.segmenter is not None and key_frames is not None:
            judge = Judge(self.segmenter, at_phases(x_hat, key_frames))
        return Prediction(image, x_hat, t, t == 0, latents, quantized, tokens, codebook, logits, judge)

    def observe(
        self, image: Tensor, key_frames: Tensor | None, sent: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Context (B * D, 2 * A, width) and logits (B, D, 2, 4, H, W) of a batch; None where there is none."""
        batch, slices = image.shape[0], image.shape[4]
        if key_frames is None:
            return self.conditioning.context(self.nothing_sent(batch * slices, image.device)), None
        if sent is None:
            sent = torch.ones(batch, dtype=torch.bool, device=image.device)
        seen = self.conditioning(at_phases(image, key_frames).flatten(0, 1), sent.repeat_interleave(slices))
        if seen is None:
            return None, None
        return seen.context, seen.logits.unflatten(0, (batch, slices))
