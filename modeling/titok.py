"""TiTok-MRI's face: a 4-D cine to tokens and back. Composes the parts and holds no math of its own.

    x (B, C, H, W, D, T) ─► adapters ─► tokenizer ─► tokens (B, D, 2 + T*K + 2*A) ─► decoder (dit | titok) ─► x̂

A generative decoder may invent anatomy: research use only, not a medical device.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn

from modeling import flow
from modeling.adapters import Adapters, to_gray
from modeling.config import ModelConfig
from modeling.dit import DiT
from modeling.phases import at_phases, cycle, key_phases
from modeling.prediction import Prediction
from modeling.pretrained import read_pretrained, write_pretrained, write_published
from modeling.quantizer.vq import Quantized
from modeling.segmenter import LV, Judge, Segmenter
from modeling.tokenizer import Tokenizer, transformer_size
from modeling.tokens import NOT_SENT, FrameLayout, TokenParts, check_dtype, check_images, check_knobs, check_range
from utils import registry
from utils.device import exact_float32


class TiTok(nn.Module):
    """The model.

    Args:
        config: the model as plain data.

    Raises:
        ValueError: when a part refuses its options.
    """

    frames_per_chunk = 128
    tokenizer: Tokenizer  # None where the model only segments
    layout: FrameLayout

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        vq_model = config.tokenizer.vq_model
        chosen = config.conditioning
        self.conditioning = registry.build(
            "modeling.conditioning", chosen.get("name", "none"), chosen, "model.conditioning"
        )
        self.adapters = self.dit = None
        if config.decoder == "none":
            self.tokenizer = None  # type: ignore[assignment]
            return
        self.tokenizer = Tokenizer(vq_model, with_decoder=config.decoder == "titok")
        width = transformer_size(vq_model.vit_enc_model_size)[0]
        self.adapters = Adapters(width, config.adapters) if config.channels == 1 else None
        if config.decoder == "dit":
            anatomy_width = self.conditioning.width
            token_rms = vq_model.token_size**-0.5 if vq_model.use_l2_norm else 1.0
            self.dit = DiT(
                config.image_size, vq_model.num_latent_tokens, vq_model.token_size, token_rms, anatomy_width, config.dit
            )
        self.layout = FrameLayout(
            vq_model.num_latent_tokens,
            vq_model.codebook_size,
            self.conditioning.num_tokens,
            self.conditioning.codebook_size,
        )

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

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type of the weights."""
        return next(self.parameters()).dtype

    @property
    def segmenter(self) -> Segmenter | None:
        """The conditioning's segmenter, where it has one."""
        return self.conditioning.segmenter

    @property
    def num_codes(self) -> int:
        """Entries of the codebook; 0 in a model that only segments."""
        return 0 if self.tokenizer is None else self.layout.codebook_size

    def bypass_quantizer(self, bypass: bool) -> None:
        """Let latents pass unchanged, or quantize them."""
        if self.tokenizer is not None:
            self.tokenizer.quantize.bypass = bypass

    def check_tokens(self) -> None:
        """Raise ValueError in a model that only segments."""
        if self.tokenizer is None:
            raise ValueError("this model only segments (model.decoder none): it has no tokens; load a trained stage")

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

    def lv_curve(self, x: Tensor) -> Tensor | None:  # (B, C, H, W, D, T)
        """Segmented pixels of the LV at each phase, (B, T); None without a segmenter."""
        if self.segmenter is None:
            return None
        frames = rearrange(x, "b c h w d t -> (b t d) c h w").to(self.dtype)
        areas = [(self.segmenter.labels(part) == LV).sum((1, 2)) for part in frames.split(self.frames_per_chunk)]
        return torch.cat(areas).view(len(x), x.shape[5], -1).sum(2)

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

    def quantize(self, frames: Tensor, phase: Tensor) -> tuple[Tensor, Quantized]:  # (G, T, C, H, W), (G, T)
        """Latents before projection (G, T, K, E), and the quantized ones of all G * T frames."""
        pixels = frames.flatten(0, 1)
        if self.adapters is not None:
            pixels = self.adapters.to_rgb(pixels)
        latents = self.tokenizer.latents(pixels).unflatten(0, frames.shape[:2])
        if self.adapters is not None:
            latents = self.adapters.along_phases(latents, phase)
        return latents, self.tokenizer.quantize_latents(latents.flatten(0, 1))

    def tokenizer_is_frozen(self) -> bool:
        """True when no parameter of the path from image to tokens trains."""
        parts = (self.tokenizer or nn.Module(), self.adapters or nn.Module())
        return not any(parameter.requires_grad for part in parts for parameter in part.parameters())

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
        sent = (ids != NOT_SENT).flatten(0, 1)[:, None, None]  # (G * T, 1, 1, K)
        vectors = self.tokenizer.quantize.lookup(ids.flatten(0, 1).clamp(min=0)).to(self.dtype) * sent
        if self.dit is None:
            return self.own_decode(vectors).unflatten(0, ids.shape[:2])
        context = vectors.squeeze(2).transpose(1, 2).unflatten(0, ids.shape[:2])  # (G, T, K, token_size)
        seen = self.conditioning.context(anatomy)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            return self.dit(x, t, context, position, phase, seen)  # type: ignore[misc]

        like = vectors.new_empty((*ids.shape[:2], 1, self.config.image_size, self.config.image_size))
        mean = flow.posterior_mean(predict, like)
        if realism > 0:
            noise = flow.seeded_noise(like, seed, first)
            mean = mean + realism * (flow.euler(predict, noise, steps) - mean)
        return (mean + 1) / 2

    def own_decode(self, vectors: Tensor) -> Tensor:  # (N, token_size, 1, K)
        """The tokenizer's own decoder, (N, C, H, W)."""
        pixels = self.tokenizer.decode(vectors)
        return to_gray(pixels) if self.config.channels == 1 else pixels

    def forward(
        self,
        image: Tensor,  # (B, 1, H, W, D, T)
        slice_position: Tensor,  # (B, D)
        phase: Tensor,  # (B, T)
        t: Tensor,  # (B,)
        noise: Tensor,  # like image
        key_frames: Tensor | None = None,  # (B, 2) places of ED and ES along T
        sent: Tensor | None = None,  # (B,) bool, whose anatomy reaches the decoder; all when not given
    ) -> Prediction:
        """One training pass; gradients flow wherever parameters are trainable."""
        context, logits = self.observe(image, key_frames, sent)
        if self.tokenizer is None:
            return Prediction(image, None, t, t == 0, logits=logits)
        slices, phases = image.shape[4:]
        groups = phase.repeat_interleave(slices, dim=0)  # (G, T)
        frames = rearrange(image, "b c h w d t -> (b d) t c h w")
        device = image.device.type
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not self.tokenizer_is_frozen()):
            latents, quantized = self.quantize(frames, groups)  # frozen: in full precision, as encode does it
        codebook = self.tokenizer.quantize.codebook()
        if self.dit is None:
            x_hat = self.own_decode(quantized.vectors).unflatten(0, (len(frames), phases))
            t = torch.zeros_like(t)
        else:
            vectors = quantized.vectors.squeeze(2).transpose(1, 2).unflatten(0, (len(frames), phases))
            noisy = flow.interpolate(2 * image - 1, noise, t)
            x_hat = self.dit(
                rearrange(noisy, "b c h w d t -> (b d) t c h w"),
                t.repeat_interleave(slices),
                vectors,
                slice_position.flatten(),
                groups,
                context,
            )
            x_hat = (x_hat + 1) / 2
        x_hat = rearrange(x_hat.float(), "(b d) t c h w -> b c h w d t", d=slices)
        judge = None
        if self.segmenter is not None and key_frames is not None:
            judge = Judge(self.segmenter, at_phases(x_hat, key_frames))
        return Prediction(image, x_hat, t, t == 0, latents, quantized, codebook, logits, judge)

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

    def nothing_sent(self, count: int, device: torch.device) -> Tensor:
        """Anatomy ids of slices without anatomy, (count, 2 * A)."""
        return torch.full((count, 2 * self.conditioning.num_tokens), NOT_SENT, device=device)
