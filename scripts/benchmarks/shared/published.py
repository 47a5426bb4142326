"""The published implementation of the tokenizer, for comparison: sequence first, `nn.MultiheadAttention`, float32.

It is a re-implementation from the paper and the names of the published weights, and uses the same weights.

Source: Yu et al., An Image is Worth 32 Tokens for Reconstruction and Generation, 2024, section 3.
"""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.pixel_decoder import UpLevel
from modeling.tokenizer import TiTokDecoder, TiTokEncoder, Tokenizer


class Block(nn.Module):
    """Pre-norm residual block on sequence-first tensors."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:  # (L, N, E)
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Published:
    """Encode and decode as the published code does, with another tokenizer's weights.

    Args:
        tokenizer: in float32; it is left as it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = deepcopy(tokenizer).eval().to(memory_format=torch.contiguous_format)
        for half in (self.tokenizer.encoder, self.tokenizer.decoder):
            blocks = nn.ModuleList(Block(half.ln_pre.normalized_shape[0], half.num_heads) for _ in half.transformer)
            blocks.load_state_dict(half.transformer.state_dict())
            half.transformer = blocks.to(half.ln_pre.weight.device).eval()

    def encode(self, pixels: Tensor) -> Tensor:  # (N, 3, H, W)
        """Ids, (N, K)."""
        half: TiTokEncoder = self.tokenizer.encoder
        n = len(pixels)
        x = half.patch_embed(pixels).flatten(2).permute(0, 2, 1)
        x = torch.cat([half.class_embedding.expand(n, -1, -1), x], dim=1) + half.positional_embedding
        latents = self.tokenizer.latent_tokens.expand(n, -1, -1) + half.latent_token_positional_embedding
        x = self._transform(half, torch.cat([x, latents], dim=1))
        z = half.project(half.ln_post(x[:, 1 + half.grid**2 :]))  # (N, C, 1, K)
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        codebook = self.tokenizer.quantize.embedding.weight
        if self.tokenizer.config.use_l2_norm:
            flat, codebook = F.normalize(flat, dim=-1), F.normalize(codebook, dim=-1)
        distance = (
            flat.square().sum(1, keepdim=True)
            + codebook.square().sum(1)
            - 2 * torch.einsum("mc,vc->mv", flat, codebook)
        )
        return distance.argmin(1).view(n, -1)

    def decode(self, ids: Tensor) -> Tensor:  # (N, K)
        """Pixels, (N, 3, H, W)."""
        half: TiTokDecoder = self.tokenizer.decoder
        n = len(ids)
        z = self.tokenizer.quantize.lookup(ids)  # (N, C, 1, K)
        latents = half.decoder_embed(z.squeeze(2).permute(0, 2, 1)) + half.latent_token_positional_embedding
        masks = half.mask_token.repeat(n, half.grid**2, 1)
        masks = torch.cat([half.class_embedding.expand(n, -1, -1), masks], dim=1) + half.positional_embedding
        x = self._transform(half, torch.cat([masks, latents], dim=1))
        x = half.ln_post(x[:, 1 : 1 + half.grid**2]).permute(0, 2, 1).reshape(n, -1, half.grid, half.grid)
        x = half.ffn(x.contiguous())
        if not half.is_legacy:  # channels hold (row, column, colour), colour fastest
            x = x.unflatten(1, (half.patch, half.patch, 3)).permute(0, 3, 4, 1, 5, 2)
            x = x.reshape(n, 3, half.grid * half.patch, half.grid * half.patch).contiguous()
        x = half.conv_out(x)
        if not self.tokenizer.config.finetune_decoder:
            return x
        states = torch.einsum("nvhw,vc->nchw", x.softmax(1), self.tokenizer.pixel_quantize["embedding"].weight)
        return self._pixels(states.contiguous())

    def _pixels(self, x: Tensor) -> Tensor:  # (N, 256, h, w)
        """The VQGAN decoder, channels first, doubling before it convolves."""
        decoder = self.tokenizer.pixel_decoder
        x = decoder.conv_in(x)
        for block in decoder.mid:
            x = block(x)
        for level in (level for level in reversed(decoder.up) if isinstance(level, UpLevel)):
            for block in level.block:
                x = block(x)
            if hasattr(level, "upsample_conv"):
                x = level.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return decoder.conv_out(F.silu(decoder.norm_out(x)))

    @staticmethod
    def _transform(half: TiTokEncoder | TiTokDecoder, x: Tensor) -> Tensor:  # (N, L, E)
        x = half.ln_pre(x).permute(1, 0, 2)  # (L, N, E)
        for block in half.transformer:
            x = block(x)
        return x.permute(1, 0, 2)
