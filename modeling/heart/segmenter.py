"""Segmenter of short-axis frames: RV, MYO and LV, for anatomy tokens, losses, the choice of ED and ES, and evaluation.

A ResNet18 with GroupNorm instead of BatchNorm, so that ranks need not share statistics, and a light decoder:

    x ─► stem /2 ─► /4 ─► /8 ─► /16 ─► /32          timm's resnet18, one input channel
          │          │     │      │      │
          ◄── up ◄───◄─────◄──────◄──────┘ ─► up ─► logits at input size

Source: He et al., Deep Residual Learning, 2016 (encoder); Ronneberger et al., U-Net, 2015 (skip connections).
"""

from functools import cached_property
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import GroupNorm
from torch import Tensor, nn

from modeling.layers.recompute import recomputed
from utils.labels import LABELS

NUM_CLASSES = len(LABELS)  # channels in the order of the labels
WIDTHS = (128, 64, 48, 32)  # channels of the decoder at /16, /8, /4, /2


class Segmented(NamedTuple):
    """A segmenter's output.

    Args:
        logits: (N, 4, H, W) float32 of background, RV, MYO, LV.
        pyramid: features of the encoder at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side.
    """

    logits: Tensor
    pyramid: tuple[Tensor, ...]

    @property
    def features(self) -> Tensor:
        """Mid-level features, (N, 128, H/8, W/8)."""
        return self.pyramid[2]


class FixedSegmenter:
    """A segmenter with fixed weights: gradients flow to the frames, not to the weights.

    Args:
        segmenter: the network.
        frames: (..., 1, H, W) in [0, 1], the key frames.
    """

    def __init__(self, segmenter: "FrameSegmenter", frames: Tensor) -> None:
        self.segmenter, self.frames = segmenter, frames
        device = frames.device.type  # a loss segments outside the block of autocast, in the precision of the model
        self.autocast, self.dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    @cached_property
    def segmented(self) -> Segmented:
        """The segmented key frames, computed at first use."""
        return self.segment(self.frames)

    @property
    def logits(self) -> Tensor:
        """Logits of the key frames, (..., 4, H, W)."""
        return self.segmented.logits

    def segment(self, frames: Tensor) -> Segmented:  # (..., 1, H, W)
        """Segment any frames; leading axes are kept."""
        fixed = {name: value.detach() for name, value in self.segmenter.state_dict(keep_vars=True).items()}

        def work(frames: Tensor) -> Segmented:
            return torch.func.functional_call(self.segmenter, fixed, (frames,))

        with torch.autocast(frames.device.type, self.dtype, enabled=self.autocast):
            logits, pyramid = recomputed(work, self.segmenter.recompute_frames, frames.flatten(0, -4))
        leading = frames.shape[:-3]
        return Segmented(logits.unflatten(0, leading), tuple(x.unflatten(0, leading) for x in pyramid))


class Merge(nn.Module):
    """Twice the size, joined with the encoder's features of that size, one convolution."""

    def __init__(self, below: int, skip: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(below + skip, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (N, below, h, w), (N, skip, 2h, 2w)
        x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
        return F.relu(self.norm(self.conv(torch.cat([x, skip], dim=1))))


class FrameSegmenter(nn.Module):
    """A network from single frames (N, 1, H, W) in [0, 1] to `Segmented`, with a last layer `head`."""

    feature_channels: int  # of `Segmented.features`
    recompute_frames = 0  # of a chunk that is computed again in the backward pass; 0: all activations are stored
    mirror = False  # whether `labels` averages the probabilities of a frame and its mirror image
    head: nn.Conv2d

    def recomputed(self, x: Tensor) -> Segmented:  # (N, 1, H, W) in [0, 1]
        """Compute the same as `forward`, `recompute_frames` frames at a time if gradients are needed."""
        return Segmented(*recomputed(self, self.recompute_frames, x))

    @torch.inference_mode()
    def labels(self, x: Tensor) -> Tensor:  # (N, 1, H, W) in [0, 1]
        """The most probable label of each pixel, (N, H, W) uint8: 0 background, 1 RV, 2 MYO, 3 LV."""
        x = x.to(self.head.weight.dtype)
        scores = self(x).logits
        if self.mirror:
            scores = scores.softmax(1) + self(x.flip(3)).logits.softmax(1).flip(3)
        return scores.argmax(1).to(torch.uint8)


class Segmenter(FrameSegmenter):
    """Frames to logits; 12 M parameters."""

    feature_channels = 128

    def __init__(self) -> None:
        super().__init__()
        encoder: Any = timm.create_model("resnet18", features_only=True, in_chans=1, norm_layer=GroupNorm)
        self.encoder = encoder
        *skips, below = encoder.feature_info.channels()
        self.merges = nn.ModuleList()
        for skip, width in zip(reversed(skips), WIDTHS, strict=True):
            self.merges.append(Merge(below, skip, width))
            below = width
        self.head = nn.Conv2d(below, NUM_CLASSES, 3, padding=1)

    def forward(self, x: Tensor) -> Segmented:  # (N, 1, H, W) in [0, 1]
        """Logits at the size of the input, and mid-level features."""
        x = (2 * x - 1).contiguous(memory_format=torch.channels_last)
        *skips, h = pyramid = self.encoder(x)
        for merge, skip in zip(self.merges, reversed(skips), strict=True):
            h = merge(h, skip)
        logits = F.interpolate(self.head(h), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return Segmented(logits.float(), tuple(pyramid))
