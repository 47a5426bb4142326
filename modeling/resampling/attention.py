"""Attention resampler: a whole cine to N tokens, and back to the context of each frame for the decoder.

    frame latents (B, D, T, K, E) ─► + token, slice and phase embeddings ─► N queries attend ─► FSQ ─► ids (B, N)
    ids (B, N) ─► embeddings ◄─ attended by a query for each slice, phase and token ─► context (B, D, T, K, token_size)

Slices have relative positions in the stack and phases have positions on the circle of the cycle. So the numbers of
slices and phases are free, also at the output. Tokens that are not transmitted are masked in the attention.

Source: Jaegle et al., Perceiver IO, 2021, sec. 2 (queries read an array into latents and out of them).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.transformer import Block, harmonics, sinusoid
from modeling.quantizer.fsq import FSQ
from modeling.resampling.base import Resampler
from modeling.resampling.config import SequenceConfig


class CrossAttentionBlock(nn.Module):
    """Cross-attention from queries to an array, then self-attention among the queries; pre-norm and residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.ln_q, self.ln_kv = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.block = Block(width, num_heads)

    def forward(self, x: Tensor, array: Tensor, valid: Tensor, group: int) -> Tensor:
        """Update the queries.

        Args:
            x: (B, L, E) queries.
            array: (B, M, E) keys and values.
            valid: (B, M) bool, False for masked entries of the array; at least one is True in each row.
            group: number of queries that attend to each other, L or a divisor of L.

        Returns:
            (B, L, E).
        """
        q = self.q(self.ln_q(x)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = self.kv(self.ln_kv(array)).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None])
        x = x + self.proj(out.transpose(1, 2).flatten(2))
        return self.block(x.reshape(-1, group, x.shape[2])).view_as(x)


class PositionEmbedding(nn.Module):
    """Embedding of the position of a frame's token: which token, at which slice and phase."""

    frequency_width = 64
    phase_harmonics = 8

    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(num_tokens, width))
        self.slice = nn.Linear(self.frequency_width, width)
        self.phase = nn.Linear(2 * self.phase_harmonics, width)

    def forward(self, position: Tensor, phase: Tensor) -> Tensor:  # (B, D) in (0, 1), (B, T) in cycles
        """(B, D, T, K, E)."""
        dtype = self.token.dtype
        along_slices = self.slice(sinusoid(position, self.frequency_width, 100.0).to(dtype))  # (B, D, E)
        along_phases = self.phase(harmonics(phase, self.phase_harmonics).to(dtype))  # (B, T, E)
        return along_slices[:, :, None, None] + along_phases[:, None, :, None] + self.token


class AttentionResampler(Resampler):
    """All frames of a cine to N tokens, and back to a context for each frame.

    Args:
        latent_width: E of the encoder's latents.
        frame_tokens: K, latents a frame.
        token_size: channels of the context of the decoder.
        on_sphere: whether the context has unit length, like codebook entries with `use_l2_norm`.
        anatomy_width: channels of the anatomy context of a slice, a further input; 0 for none.
        config: options.
    """

    reads = "latents"

    def __init__(
        self,
        latent_width: int,
        frame_tokens: int,
        token_size: int,
        on_sphere: bool,
        anatomy_width: int,
        config: SequenceConfig,
    ) -> None:
        fsq = FSQ(config.levels)
        super().__init__(config.num_tokens, fsq.codebook_size)
        width = config.width
        self.fsq, self.on_sphere = fsq, on_sphere
        self.latent_embedder = nn.Sequential(nn.LayerNorm(latent_width), nn.Linear(latent_width, width))
        self.anatomy_embedder = nn.Linear(anatomy_width, width) if anatomy_width else None
        self.places_in, self.places_out = PositionEmbedding(frame_tokens, width), PositionEmbedding(frame_tokens, width)
        self.queries = nn.Parameter(torch.randn(config.num_tokens, width))
        self.compressing = nn.ModuleList(CrossAttentionBlock(width, config.num_heads) for _ in range(config.num_layers))
        self.to_code = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.fsq.channels))
        self.code_embedder = nn.Linear(self.fsq.channels, width)
        self.code_places = nn.Parameter(torch.randn(config.num_tokens, width))
        self.nothing = nn.Parameter(torch.zeros(width))  # used if no token is transmitted
        self.expanding = nn.ModuleList(CrossAttentionBlock(width, config.num_heads) for _ in range(config.num_layers))
        self.to_context = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, token_size))
        self.init_local()

    @torch.no_grad()
    def init_local(self) -> None:
        """Initialise so that token i of the cine is the mean of one frame token over all frames, and is decoded to it.

        Query and key weights are near the identity, and queries and codes have the embeddings of their frame tokens.
        With random attention, which averages all frames and tokens, training stays at the mean image.
        """
        first = torch.arange(self.num_tokens) * len(self.places_in.token) // self.num_tokens
        self.places_out.token.copy_(self.places_in.token)
        self.queries.copy_(self.places_in.token[first])
        self.code_places.copy_(self.places_out.token[first])
        for block in (*self.compressing, *self.expanding):
            width, depth = block.q.in_features, len(self.compressing)
            noise = 0.2 * width**-0.5 * torch.randn(2, width, width)
            block.q.weight.copy_(torch.eye(width) + noise[0])
            block.kv.weight[:width] = torch.eye(width) + noise[1]
            nn.init.trunc_normal_(block.kv.weight[width:], std=width**-0.5)
            for linear in (block.q, block.kv, block.proj):
                nn.init.zeros_(linear.bias)
            for linear in (block.proj, block.block.attn.out_proj, block.block.mlp.c_proj):
                nn.init.trunc_normal_(linear.weight, std=(2 * depth * linear.in_features) ** -0.5)

    def compress(
        self,
        latents: Tensor,  # (B, D, T, K, E)
        position: Tensor,  # (B, D) in (0, 1)
        phase: Tensor,  # (B, T) in cycles
        valid: Tensor | None = None,  # (B, D, T) bool, False for padded frames; None for no padding
        anatomy: Tensor | None = None,  # (B, D, M, anatomy_width)
    ) -> tuple[Tensor, Tensor]:
        """Quantized values (B, N, C) and ids (B, N) of whole cines."""
        array = self.latent_embedder(latents.to(self.queries.dtype)) + self.places_in(position, phase)
        valid = torch.ones(array.shape[:3], dtype=torch.bool, device=array.device) if valid is None else valid
        mask = valid[..., None].expand(array.shape[:4]).flatten(1)
        array = array.flatten(1, 3)
        if self.anatomy_embedder is not None and anatomy is not None:
            slices = self.places_in.slice(sinusoid(position, PositionEmbedding.frequency_width, 100.0).to(array.dtype))
            more = self.anatomy_embedder(anatomy.to(array.dtype)) + slices[:, :, None]  # (B, D, M, E)
            array = torch.cat([array, more.flatten(1, 2)], dim=1)
            mask = torch.cat([mask, valid.any(2)[..., None].expand(more.shape[:3]).flatten(1)], dim=1)
        x = self.queries.expand(len(array), -1, -1)
        for layer in self.compressing:
            x = layer(x, array, mask, self.num_tokens)
        return self.fsq(self.to_code(x))

    def expand(self, values: Tensor, transmitted: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """Expand tokens of whole cines to the context of each frame.

        Args:
            values: (B, N, C) quantized.
            transmitted: (B, N) bool; other tokens are masked.
            position: (B, D) positions of slices in (0, 1).
            phase: (B, T) in cycles.

        Returns:
            (B, D, T, K, token_size).
        """
        x = self.places_out(position, phase)
        shape = x.shape[:4]
        codes = self.code_embedder(values.to(x.dtype)) + self.code_places
        array = torch.cat([self.nothing.expand(len(codes), 1, -1), codes], dim=1)
        valid = torch.cat([torch.ones_like(transmitted[:, :1]), transmitted], dim=1)
        x = x.flatten(1, 3)
        for layer in self.expanding:
            x = layer(x, array, valid, shape[3])
        x = self.to_context(x).unflatten(1, shape[1:])
        return F.normalize(x.float(), dim=-1).to(x.dtype) if self.on_sphere else x

    def lookup(self, ids: Tensor) -> Tensor:  # (B, N), without -1
        """Return the quantized values of ids, (B, N, C)."""
        return self.fsq.lookup(ids)
