"""The parts of a model, and what each does with the others' help; modeling/titok.py makes a model of them."""

import torch
from einops import rearrange
from torch import Tensor, nn

from modeling.adapters import Adapters, to_gray
from modeling.config import ModelConfig
from modeling.dit import DiT
from modeling.quantizer.vq import Quantized
from modeling.segmenter import LV, Segmenter
from modeling.tokenizer import Tokenizer, transformer_size
from modeling.tokens import NOT_SENT, FrameLayout
from utils import registry
from utils.checkpoint import hash_weights

MAKES_TOKENS = ("adapters.", "tokenizer.latent_tokens", "tokenizer.encoder.", "tokenizer.quantize.")


class Parts(nn.Module):
    """Adapters, tokenizer, DiT and conditioning, as far as the config asks for them.

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
        self.tokenizer = Tokenizer(vq_model, with_decoder=config.keeps_decoder)
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
        return not any(p.requires_grad for name, p in self.named_parameters() if name.startswith(MAKES_TOKENS))

    def lookup(self, ids: Tensor) -> Tensor:  # (N, K), NOT_SENT where a token is not there
        """What the decoder reads of ids, (N, token_size, 1, K): codebook entries, and zero where nothing was sent."""
        return self.tokenizer.quantize.lookup(ids.clamp(min=0)) * (ids != NOT_SENT)[:, None, None]

    def tokens_hash(self) -> str:
        """Hash of all weights that the tokens of an image depend on."""
        return hash_weights({k: v for k, v in self.state_dict().items() if k.startswith(MAKES_TOKENS)})

    def own_decode(self, vectors: Tensor) -> Tensor:  # (N, token_size, 1, K)
        """The tokenizer's own decoder, (N, C, H, W)."""
        pixels = self.tokenizer.decode(vectors)
        return to_gray(pixels) if self.config.channels == 1 else pixels

    def draft(self, vectors: Tensor, groups: int) -> Tensor | None:  # (G * T, token_size, 1, K)
        """The tokenizer's picture of each frame, (G, T, 1, H, W) in [-1, 1], where the DiT corrects one."""
        if not self.config.dit.draft:
            return None
        return 2 * self.own_decode(vectors).unflatten(0, (groups, -1)) - 1

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
