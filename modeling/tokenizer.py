"""The published TiTok tokenizer: an image becomes K latent tokens, quantized, and an image again.

    pixels ─► patches + K latent tokens ─► ViT encoder ─► 1x1 projection ─► vector quantizer ─► ids
    ids ─► codebook ─► mask tokens + latents ─► ViT decoder ─► pixels
                                                          └──► 1024 proxy codes ─► VQGAN pixel decoder (legacy models)

State-dict names and shapes are those of the published weights.

Source: Yu et al., An Image is Worth 32 Tokens for Reconstruction and Generation, 2024, section 3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.pixel_decoder import LATENT_CHANNELS, PROXY_CODEBOOK_SIZE, PixelDecoder
from modeling.layers.transformer import (
    Attention,
    Block,
    coarse_points,
    grid_points,
    patchify,
    sincos_2d,
    through,
    transformer_size,
)
from modeling.quantizer.vq import Quantized, VectorQuantizer
from utils.config.ranges import Codes, NotNegative, Pixels, Tokens, TransformerSize, Width

SIZES: dict[str, TransformerSize] = {
    "small": {"width": 512, "num_layers": 8, "num_heads": 8},
    "base": {"width": 768, "num_layers": 12, "num_heads": 12},
    "large": {"width": 1024, "num_layers": 24, "num_heads": 16},
}


@dataclass
class VQModelConfig:
    """Architecture of a tokenizer; names and defaults are those of the published `model.vq_model`.

    Args:
        image_size: side of the image in pixels (`dataset.preprocessing.crop_size` of a published folder).
        vit_enc_model_size: small, base, large or {"width", "num_layers", "num_heads"}.
        vit_dec_model_size: the same for the decoder.
        finetune_decoder: the decoder predicts proxy codes, turned into pixels by the VQGAN pixel decoder.
        is_legacy: latents are reshaped without a permute and the decoder ends in proxy codes (L-32, B-64, S-128).
    """

    image_size: Pixels = 256
    codebook_size: Codes = 4096
    token_size: Width = 12
    use_l2_norm: bool = True
    commitment_cost: NotNegative = 0.25
    vit_enc_model_size: str | TransformerSize = "large"
    vit_dec_model_size: str | TransformerSize = "large"
    vit_enc_patch_size: Pixels = 16
    vit_dec_patch_size: Pixels = 16
    num_latent_tokens: Tokens = 32
    finetune_decoder: bool = True
    is_legacy: bool = True
    quantize_mode: str = "vq"


def vit_size(size: str | TransformerSize) -> tuple[int, int, int]:
    """Width, layers and heads of a ViT: small, base, large or a mapping."""
    return transformer_size(size, SIZES, "model size")


class TiTokEncoder(nn.Module):
    """Vision transformer with latent tokens that attend to the image patches."""

    def __init__(self, config: VQModelConfig) -> None:
        super().__init__()
        width, num_layers, num_heads = vit_size(config.vit_enc_model_size)
        self.grid, self.num_heads = config.image_size // config.vit_enc_patch_size, num_heads
        self.is_legacy, self.width, self.token_size = config.is_legacy, width, config.token_size
        patch = config.vit_enc_patch_size
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(self.grid**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(
            width**-0.5 * torch.randn(config.num_latent_tokens, width)
        )
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.ln_post = nn.LayerNorm(width)
        self.conv_out = nn.Conv2d(width, config.token_size, 1)

    def latents(self, pixels: Tensor, latent_tokens: Tensor) -> Tensor:  # (N, 3, H, W), (K, E)
        """Latents before projection, (N, K, E)."""
        n = len(pixels)
        x = patchify(pixels, self.patch_embed)  # (N, P, E)
        x = torch.cat([self.class_embedding.expand(n, 1, -1), x], dim=1) + self.positional_embedding
        latents = (latent_tokens + self.latent_token_positional_embedding).expand(n, -1, -1)
        x = self.ln_pre(torch.cat([x, latents], dim=1))  # (N, 1 + P + K, E)
        return self.ln_post(through(self.transformer, x, slice(1 + self.grid**2, None)))

    def project(self, latents: Tensor) -> Tensor:  # (N, K, E)
        """Projection to the quantizer's space, (N, token_size, 1, K)."""
        n, count, width = latents.shape
        if self.is_legacy:  # the published legacy models reshape here instead of transposing
            latents = latents.reshape(n, width, count).transpose(1, 2)
        z = F.linear(latents, self.conv_out.weight.flatten(1), self.conv_out.bias)  # the 1x1 convolution as a product
        return z.transpose(1, 2).unsqueeze(2)


class TiTokDecoder(nn.Module):
    """Vision transformer whose mask tokens, one per patch, become pixels or proxy-code logits."""

    def __init__(self, config: VQModelConfig) -> None:
        super().__init__()
        width, num_layers, num_heads = vit_size(config.vit_dec_model_size)
        self.grid, self.patch = config.image_size // config.vit_dec_patch_size, config.vit_dec_patch_size
        self.num_heads = num_heads
        self.decoder_embed = nn.Linear(config.token_size, width)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(1, width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(self.grid**2 + 1, width))
        self.mask_token = nn.Parameter(width**-0.5 * torch.randn(1, 1, width))
        self.latent_token_positional_embedding = nn.Parameter(
            width**-0.5 * torch.randn(config.num_latent_tokens, width)
        )
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, num_heads) for _ in range(num_layers))
        self.ln_post = nn.LayerNorm(width)
        self.is_legacy = config.is_legacy
        self.ffn: nn.Sequential
        self.conv_out: nn.Module
        if config.is_legacy:
            self.ffn = nn.Sequential(
                nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, PROXY_CODEBOOK_SIZE, 1)
            )
            self.conv_out = nn.Identity()
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * self.patch**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z_quantized: Tensor) -> Tensor:  # (N, token_size, 1, K)
        """Pixels (N, 3, H, W), or logits (N, 1024, h, w) of a legacy model."""
        n = len(z_quantized)
        latents = self.decoder_embed(z_quantized.squeeze(2).transpose(1, 2)) + self.latent_token_positional_embedding
        masks = self.mask_token.expand(n, self.grid**2, -1)
        masks = torch.cat([self.class_embedding.expand(n, 1, -1), masks], dim=1) + self.positional_embedding
        x = self.ln_pre(torch.cat([masks, latents], dim=1))  # (N, 1 + P + K, E)
        x = self.ln_post(through(self.transformer, x, slice(1, 1 + self.grid**2))).transpose(1, 2)
        x = self.ffn(x.unflatten(2, (self.grid, self.grid)))
        if not self.is_legacy:  # channels hold (row, column, colour), colour fastest
            x = x.unflatten(1, (self.patch, self.patch, 3)).permute(0, 3, 4, 1, 5, 2)
            x = x.reshape(n, 3, self.grid * self.patch, self.grid * self.patch)
            x = x.contiguous(memory_format=torch.channels_last)  # several times faster with so few channels
        return self.conv_out(x)


class Tokenizer(nn.Module):
    """TiTok: encoder, quantizer and decoder of single images.

    Args:
        config: the architecture.
        with_decoder: False builds encoder and quantizer only.

    Raises:
        ValueError: for a continuous tokenizer or an image size that the patches do not divide.
    """

    def __init__(self, config: VQModelConfig, with_decoder: bool = True) -> None:
        super().__init__()
        if config.quantize_mode != "vq":
            raise ValueError(
                f"quantize_mode {config.quantize_mode!r}: this project works on discrete tokens, expected 'vq'; "
                "choose a tokenizer that ends in a vector quantizer"
            )
        for name in ("vit_enc_patch_size", "vit_dec_patch_size"):
            if config.image_size % getattr(config, name):
                raise ValueError(f"image_size {config.image_size} is not a multiple of {name} {getattr(config, name)}")
        self.config = config
        width = vit_size(config.vit_enc_model_size)[0]
        self.latent_tokens = nn.Parameter(width**-0.5 * torch.randn(config.num_latent_tokens, width))
        self.encoder = TiTokEncoder(config)
        self.quantize = VectorQuantizer(config.codebook_size, config.token_size, config.use_l2_norm)
        if with_decoder:
            self.decoder = TiTokDecoder(config)
        if with_decoder and config.finetune_decoder:
            self.pixel_quantize = nn.ModuleDict({"embedding": nn.Embedding(PROXY_CODEBOOK_SIZE, LATENT_CHANNELS)})
            self.pixel_decoder = PixelDecoder()

    def latents(self, pixels: Tensor) -> Tensor:  # (N, 3, H, W)
        """Latents before projection, (N, K, E)."""
        return self.encoder.latents(pixels, self.latent_tokens)

    def quantize_latents(self, latents: Tensor) -> Quantized:  # (N, K, E)
        """Project and quantize latents."""
        return self.quantize(self.encoder.project(latents))

    def decode(self, z_quantized: Tensor) -> Tensor:  # (N, token_size, 1, K)
        """Pixels of quantized latents, (N, 3, H, W), not clamped."""
        decoded = self.decoder(z_quantized)
        if not self.config.finetune_decoder:
            return decoded
        states = torch.einsum("nvhw,vc->nchw", decoded.softmax(1), self.pixel_quantize["embedding"].weight)
        return self.pixel_decoder(states)

    @torch.no_grad()
    def init_local(self) -> None:
        """Initialise from scratch so that attention is local from the start.

        Patches, mask tokens and latents (on a coarse grid over the image) have unit-scale sine-cosine position tables,
        and query and key weights are near the identity. With the usual small random initialisation, a 1-D tokenizer
        stays at the mean image for hundreds of steps.
        """
        for half in [child for child in self.children() if isinstance(child, TiTokEncoder | TiTokDecoder)]:
            width = half.positional_embedding.shape[1]
            patches = sincos_2d(grid_points(half.grid, half.grid), width, half.num_heads)
            half.positional_embedding.copy_(torch.cat([torch.zeros(1, width), patches]))
            points = coarse_points(len(self.latent_tokens), half.grid)
            half.latent_token_positional_embedding.copy_(sincos_2d(points, width, half.num_heads))
            for module in half.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    nn.init.trunc_normal_(module.weight, std=(module.weight[0].numel()) ** -0.5)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
                if isinstance(module, Attention):
                    noise = 0.2 * width**-0.5 * torch.randn(2, width, width)
                    module.in_proj_weight[: 2 * width] = (torch.eye(width) + noise).flatten(0, 1)
                    nn.init.trunc_normal_(module.in_proj_weight[2 * width :], std=width**-0.5)
                if isinstance(module, Block):  # deeper models have smaller residual branches at initialisation
                    module.attn.out_proj.weight.mul_((2 * len(half.transformer)) ** -0.5)
                    module.mlp.c_proj.weight.mul_((2 * len(half.transformer)) ** -0.5)
