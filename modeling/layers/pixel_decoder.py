"""The MaskGIT-VQGAN pixel decoder that the published L-32, B-64 and S-128 tokenizers end with.

Names and shapes are those of the published weights. As in the published code, the input of the shortcut is the output
of the block, not its input.

Source: Chang et al., MaskGIT: Masked Generative Image Transformer, 2022; Yu et al., An Image is Worth 32 Tokens, 2024.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 128
MULTIPLIERS = (1, 1, 2, 2, 4)
BLOCKS = 2
LATENT_CHANNELS = 256
PROXY_CODEBOOK_SIZE = 1024


class ResnetBlock(nn.Module):
    """Two normalised 3x3 convolutions around a residual path."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(32, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(h) if hasattr(self, "nin_shortcut") else x)


class UpLevel(nn.Module):
    """Residual blocks of one resolution, then nearest-neighbour doubling except at the last."""

    def __init__(self, inputs: int, outputs: int, upsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(inputs if i == 0 else outputs, outputs) for i in range(BLOCKS))
        if upsample:
            self.upsample_conv = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        for block in self.block:
            x = block(x)
        if hasattr(self, "upsample_conv"):
            x = doubled(x, self.upsample_conv)
        return x


def doubled(x: Tensor, conv: nn.Conv2d) -> Tensor:  # (N, C, h, w)
    """A 3x3 convolution of nearest-neighbour doubled planes, (N, O, 2h, 2w), with 4/9 of the products.

    Of the three rows below a kernel, two are copies of one row, so their weights are added: an even output row is
    computed from rows i - 1 and i with weights (w0, w1 + w2), an odd one from rows i and i + 1 with (w0 + w1, w2);
    columns likewise. So four 2x2 convolutions at the lower resolution give the four output pixels of each input pixel.
    """
    n, _, height, width = x.shape
    rows = _halves(conv.weight.unsqueeze(0), 3)  # (2, O, C, 2, 3), even and odd rows first
    kernels = _halves(rows.unsqueeze(0), 5).flatten(0, 2)  # (columns, rows, O, C, 2, 2) as 4 * O channels
    places = F.conv2d(x, kernels, conv.bias.repeat(4), padding=1).unflatten(1, (2, 2, -1))  # type: ignore[union-attr]
    out = x.new_empty(n, conv.out_channels, 2 * height, 2 * width, dtype=places.dtype)
    out = out.contiguous(memory_format=torch.channels_last)
    for column in range(2):
        for row in range(2):
            place = places[:, column, row, :, row : row + height, column : column + width]
            out[:, :, row::2, column::2] = place
    return out


def _halves(weight: Tensor, axis: int) -> Tensor:
    """Kernels of even and odd rows along the first axis, from three weights along `axis`."""
    first, middle, last = weight.split(1, dim=axis)
    even, odd = torch.cat([first, middle + last], dim=axis), torch.cat([first + middle, last], dim=axis)
    return torch.cat([even, odd])


class PixelDecoder(nn.Module):
    """VQGAN decoder: (N, 256, h, w) latents to (N, 3, 16h, 16w) pixels."""

    def __init__(self) -> None:
        super().__init__()
        channels = [WIDTH * m for m in MULTIPLIERS]
        top = channels[-1]
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, top, 3, padding=1)
        self.mid = nn.ModuleList(ResnetBlock(top, top) for _ in range(BLOCKS))
        self.up = nn.ModuleList(
            UpLevel(channels[min(i + 1, len(channels) - 1)], channels[i], upsample=i > 0) for i in range(len(channels))
        )
        self.norm_out = nn.GroupNorm(32, WIDTH, eps=1e-6)
        self.conv_out = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (N, 256, h, w)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
