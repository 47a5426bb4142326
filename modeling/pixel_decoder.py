"""The MaskGIT-VQGAN pixel decoder that the published L-32, B-64 and S-128 tokenizers end with.

Names and shapes are pinned by the published weights, the published quirk of the shortcut included: it reads the
block's own output, not its input.

Source: Chang et al., MaskGIT: Masked Generative Image Transformer, 2022; Yu et al., An Image is Worth 32 Tokens, 2024.
"""

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
            x = self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


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
        x = self.conv_in(x)
        for block in self.mid:
            x = block(x)
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))
