"""Layers of the DiT: modulated self-attention, phase attention, cross-attention to anatomy, the last layer."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.layers.transformer import Mlp, PhaseAttention, rotate


class SelfAttention(nn.Module):
    """Attention with normalised, rotated queries and keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = nn.RMSNorm(width // num_heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(width // num_heads, eps=1e-6)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:  # (N, L, E), (L, E / heads / 2)
        n, length, width = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (rotate(normalize(x, norm), angles).to(v.dtype) for x, norm in ((q, self.q_norm), (k, self.k_norm)))
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(n, length, width))


def normalize(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """Apply the root-mean-square norm in float32, independent of the precision of input and weight."""
    return F.rms_norm(x.float(), tuple(norm.normalized_shape), norm.weight.float(), norm.eps)


class CrossAttention(nn.Module):
    """Attention from the sequence of a frame to the anatomy context, with a gate that is zero at initialisation."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.gate = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # (N, L, E), (N, M, E)
        n, length, width = x.shape
        q = self.q(self.norm(x)).view(n, length, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(context).view(n, context.shape[1], 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.gate * self.proj(out.transpose(1, 2).reshape(n, length, width))


class DiTBlock(nn.Module):
    """Self-attention in a frame, attention along the phases, cross-attention to anatomy (if any), MLP."""

    def __init__(self, width: int, num_heads: int, cross: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = SelfAttention(width, num_heads)
        self.phase_attn = PhaseAttention(width, num_heads)
        self.cross_attn = CrossAttention(width, num_heads) if cross else None
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.mlp = Mlp(width)
        self.scale_shift_table = nn.Parameter(torch.zeros(6, width))

    def forward(
        self,
        x: Tensor,  # (G, T, L, E)
        modulation: Tensor,  # (G, 6, E)
        angles: Tensor,  # (L, E / heads / 2)
        phase: Tensor,  # (G, T)
        anatomy: Tensor | None,  # (G, M, E)
    ) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.scale_shift_table)[:, :, None, None].unbind(
            1
        )  # each (G, 1, 1, E)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attn(h.flatten(0, 1), angles).unflatten(0, x.shape[:2])
        x = x + self.phase_attn(x, phase)
        if self.cross_attn is not None and anatomy is not None:
            context = anatomy.repeat_interleave(x.shape[1], dim=0)  # the same for every phase
            x = x + self.cross_attn(x.flatten(0, 1), context).unflatten(0, x.shape[:2])
        h = self.norm2(x) * (1 + scale2) + shift2
        return x + gate2 * self.mlp(h)


class FinalLayer(nn.Module):
    """Modulated norm and projection to the pixels of a patch."""

    def __init__(self, width: int, patch: int, channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.linear = nn.Linear(width, patch * patch * channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:  # (G, T, P, E), (G, E)
        shift, scale = self.adaLN_modulation(c)[:, None, None].chunk(2, dim=-1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


def rope_angles(points: Tensor, head_width: int) -> Tensor:  # (L, 2) in patches
    """Rotation angles of points in the plane, (L, head_width / 2): half of the pairs for rows, half for columns.

    Source: Heo et al., Rotary Position Embedding for Vision Transformer, 2024 (axial form).
    """
    pairs = head_width // 4
    frequencies = 100.0 ** (-torch.arange(pairs) / pairs)
    return (points.float().unsqueeze(-1) * frequencies).flatten(1)
