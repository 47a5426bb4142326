"""A small U-Net that segments short-axis frames: RV, MYO and LV. It shares no layer and no weight with segmenter.py.

    x ─► 2x2 pixels to channels ─► /2 ─► /4 ─► /8 ─► /16 ─► /32
                                   │     │     │      │      │
    logits ◄─ channels to 2x2 ◄────◄─────◄─────◄──────◄──────┘

Source: Ronneberger et al., U-Net, 2015; Isensee et al., nnU-Net, 2021 (strided convolutions, leaky ReLU); Shi et al.,
Real-Time Single Image and Video Super-Resolution, 2016 (pixel shuffle).
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.heart.segmenter import NUM_CLASSES, FrameSegmenter, Segmented

WIDTHS = (32, 64, 128, 160, 160)  # at 1/2, 1/4 ... 1/32 of the side


class Convolutions(nn.Sequential):
    """Two 3x3 convolutions with normalisation; the first one may halve the size."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for before, step in ((channels, stride), (width, 1)):
            conv = nn.Conv2d(before, width, 3, stride=step, padding=1, bias=False)
            layers += [conv, nn.GroupNorm(8, width), nn.LeakyReLU(0.01, inplace=True)]
        super().__init__(*layers)


class UNet(FrameSegmenter):
    """Frames to logits; 2.7 M parameters."""

    feature_channels = WIDTHS[2]

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([Convolutions(4, WIDTHS[0])])
        self.down.extend(Convolutions(before, width, 2) for before, width in pairwise(WIDTHS))
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for below, width in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(below, width, 2, stride=2))
            self.merge.append(Convolutions(2 * width, width))
        self.head = nn.Conv2d(WIDTHS[0], 4 * NUM_CLASSES, 1)

    def forward(self, x: Tensor) -> Segmented:  # (N, 1, H, W) in [0, 1]; H and W even
        """Return logits at the size of the input, and the features of the encoder."""
        h = F.pixel_unshuffle(2 * x - 1, 2).contiguous(memory_format=torch.channels_last)
        levels = []
        for stage in self.down:
            h = stage(h)
            levels.append(h)
        for up, merge, skip in zip(self.up, self.merge, levels[-2::-1], strict=True):
            height, width = skip.shape[-2:]  # odd sizes become one pixel too large
            h = merge(torch.cat([up(h)[..., :height, :width], skip], dim=1))
        return Segmented(F.pixel_shuffle(self.head(h), 2).float(), tuple(levels))
