"""The transformer block and the fixed position tables that tokenizer, adapters and DiT share."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config.ranges import TransformerSize

ALL = slice(None)


def transformer_size(
    size: str | TransformerSize, sizes: Mapping[str, TransformerSize], where: str
) -> tuple[int, int, int]:
    """Width, layers and heads of a size.

    Args:
        size: a name in `sizes`, or {"width", "num_layers", "num_heads"}.
        sizes: name -> width, layers and heads.
        where: name of the option, for error messages.

    Raises:
        ValueError: for an unknown name or a mapping with other keys.
    """
    chosen = sizes.get(size) if isinstance(size, str) else size
    if chosen is None or set(chosen) != {"width", "num_layers", "num_heads"}:
        raise ValueError(
            f"{where} {size!r}: expected {', '.join(sizes)} or a mapping of width, num_layers and num_heads"
        )
    return chosen["width"], chosen["num_layers"], chosen["num_heads"]


class Attention(nn.Module):
    """Multi-head self-attention, batch first; parameters named as in `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor, rows: slice = ALL) -> Tensor:  # (N, L, E)
        """Attend over L from some of its rows, (N, rows, E)."""
        width = x.shape[2]
        if rows == ALL:
            q, k, v = (self._heads(part) for part in self._project(x, 0, 3 * width).chunk(3, dim=2))
        else:
            q = self._heads(self._project(x[:, rows], 0, width))
            k, v = (self._heads(part) for part in self._project(x, width, 3 * width).chunk(2, dim=2))
        out = F.scaled_dot_product_attention(q, k, v)  # (N, heads, rows, E / heads)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        return F.linear(x, self.in_proj_weight[first:last], self.in_proj_bias[first:last])

    def _heads(self, x: Tensor) -> Tensor:  # (N, L, E) -> (N, heads, L, E / heads)
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, names as in CLIP."""

    def __init__(self, width: int, ratio: int = 4) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, width * ratio)
        self.c_proj = nn.Linear(width * ratio, width)

    def forward(self, x: Tensor) -> Tensor:  # (..., E)
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Pre-norm residual transformer block."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, num_heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor, rows: slice = ALL) -> Tensor:  # (N, L, E)
        """Compute only the given rows of the output, (N, rows, E); they attend to all rows of x."""
        x = x[:, rows] + self.attn(self.ln_1(x), rows)
        return x + self.mlp(self.ln_2(x))


def through(blocks: nn.ModuleList, x: Tensor, rows: slice) -> Tensor:  # (N, L, E)
    """Compute the given rows of the output of several blocks, (N, rows, E); the last block computes no other rows."""
    for block in blocks[:-1]:
        x = block(x)
    return blocks[-1](x, rows)


def zero_(*modules: nn.Module) -> None:
    """Set all parameters of modules to zero."""
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def patchify(images: Tensor, conv: nn.Conv2d) -> Tensor:  # (N, C, H, W)
    """Compute a convolution with stride equal to kernel size as one matrix product, which is faster; (N, P, E)."""
    p = conv.kernel_size[0]
    n, channels, height, width = images.shape
    patches = images.reshape(n, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
    return F.linear(patches.reshape(n, -1, channels * p * p), conv.weight.flatten(1), conv.bias)


def sincos_2d(points: Tensor, width: int, num_heads: int) -> Tensor:  # (L, 2)
    """Unit-scale sine-cosine table of points in the plane, the same frequencies in every head.

    The product of the tables of two points decreases with their distance. So attention with query and key weights near
    the identity is local at initialisation.

    Args:
        points: (L, 2) coordinates in units of patches.
        width: table width, a multiple of 4 * num_heads.
        num_heads: heads among which the width is divided.

    Returns:
        (L, width) float32, root mean square 1.

    Raises:
        ValueError: when the width cannot be divided.
    """
    if width % (4 * num_heads):
        raise ValueError(f"position tables need width to be a multiple of 4 * num_heads, got {width} and {num_heads}")
    count = width // (4 * num_heads)
    frequencies = 0.9 * 16.0 ** (-torch.arange(count) / max(count - 1, 1))  # radians a patch, down to 1/16
    angles = points.float().unsqueeze(-1) * frequencies  # (L, 2, count)
    head = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)  # (L, width / num_heads)
    return head.repeat(1, num_heads) * 2.0**0.5


def grid_points(rows: int, columns: int, extent: int | None = None) -> Tensor:
    """Centres of a rows x columns grid, (rows * columns, 2), stretched over `extent` x `extent` patches if given."""
    y = (torch.arange(rows) + 0.5) * ((extent / rows) if extent else 1.0)
    x = (torch.arange(columns) + 0.5) * ((extent / columns) if extent else 1.0)
    return torch.cartesian_prod(y, x)


def coarse_points(count: int, extent: int) -> Tensor:
    """`count` points spread over an extent x extent field on the most square grid that holds them, (count, 2)."""
    rows = next(r for r in range(int(count**0.5), 0, -1) if count % r == 0)
    return grid_points(rows, count // rows, extent)


def sinusoid(value: Tensor, width: int, scale: float) -> Tensor:  # (...)
    """Sine-cosine features of a number in [0, 1], (..., width)."""
    frequencies = scale * torch.exp(-9.0 * torch.arange(width // 2, device=value.device) / (width // 2))
    angles = value.float().unsqueeze(-1) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def harmonics(phase: Tensor, count: int) -> Tensor:  # (...) in cycles
    """Sine and cosine of the first `count` harmonics of the cycle, (..., 2 * count)."""
    angles = 2 * torch.pi * phase.float().unsqueeze(-1) * torch.arange(1, count + 1, device=phase.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class FixedTable(nn.Module):
    """A table of constants on the device of the model; it stays in float32 if the model is cast to another type."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table.float(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FixedTable":
        exact = self.table
        super()._apply(fn, recurse)
        if self.table.dtype != exact.dtype:
            self.table = exact.to(self.table.device)
        return self


def rotate(x: Tensor, angles: Tensor) -> Tensor:  # (..., L, E), (..., L, E / 2)
    """Rotate consecutive halves of the last axis by angles in radians.

    Source: Su et al., RoFormer, 2021, eq. 34.
    """
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x.dtype)


class PhaseAttention(nn.Module):
    """Attention over the phases of the cardiac cycle, at every position of a frame separately.

    Queries and keys are rotated by whole harmonics of the phase, so attention depends on phase differences modulo one
    cycle: the last phase is the neighbour of the first. The output layer is zero at initialisation.
    """

    harmonics = 8

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"phase attention needs width to be a multiple of 2 * num_heads, got {width}, {num_heads}")
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        zero_(self.proj)
        pairs = width // num_heads // 2
        orders = torch.arange(pairs) * (self.harmonics + 1) // pairs  # integers 0 to harmonics
        self.orders = FixedTable(orders)

    def forward(self, x: Tensor, phase: Tensor) -> Tensor:  # (G, T, L, E), (G, T) in cycles
        """The residual to add to x, (G, T, L, E)."""
        groups, phases, length, width = x.shape
        qkv = self.qkv(self.norm(x)).view(groups, phases, length, 3, self.num_heads, -1)
        q, k, v = qkv.permute(3, 0, 2, 4, 1, 5)  # each (G, L, heads, T, E / heads)
        angles = 2 * torch.pi * phase.float().unsqueeze(-1) * self.orders.table  # (G, T, pairs)
        angles = angles[:, None, None]
        out = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        return self.proj(out.permute(0, 3, 1, 2, 4).reshape(groups, phases, length, width))
