"""Refinement of decoded components: a small convolutional network predicts the error of quantization.

It works on component images in units of the step, so that one network serves all steps. Its last layer is zero
at initialisation, so an untrained network changes nothing. Only the first components are refined.

Axes: D slices, R components, H and W.

Source: Zhang et al., Beyond a Gaussian denoiser (DnCNN), 2017, residual learning; gated units of Chen et al., Simple
baselines for image restoration (NAFNet), 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.flow import SamplerOptions
from modeling.ladder.network import step_inputs
from utils.config.ranges import Range


@dataclass
class Options:
    """Options of the refinement.

    Args:
        width: channels.
        blocks: number of blocks.
        components: number of components that it refines.
    """

    width: Annotated[int, Range(1, 1024)] = 48
    blocks: Annotated[int, Range(0, 64)] = 4
    components: Annotated[int, Range(1, 64)] = 12


class Block(nn.Module):
    """Depthwise and pointwise convolutions with a gate, added to the input.

    Args:
        width: channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.expand = nn.Conv2d(width, 4 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)
        nn.init.normal_(self.project.weight, std=0.02)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        """Features (D, width, H, W), with `step` (width,) added to them -> the same shape."""
        h = self.expand(self.spatial(x) + step[:, None, None])
        value, gate = h.chunk(2, 1)
        return x + self.project(value * F.gelu(gate, approximate="tanh"))


class ConvRefinement(nn.Module):
    """The network.

    Args:
        config: its size.
    """

    def __init__(self, config: Options) -> None:
        super().__init__()
        self.components = config.components
        self.head = nn.Conv2d(2 * config.components, config.width, 3, padding=1)
        self.step = nn.Linear(2, config.width)
        self.blocks = nn.ModuleList(Block(config.width) for _ in range(config.blocks))
        self.tail = nn.Conv2d(config.width, config.components, 3, padding=1)
        for parameter in self.tail.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, components: Tensor, step: float, step_index: int, options: SamplerOptions | None = None
    ) -> Tensor:
        """Refine decoded components.

        Args:
            components: (D, R, H, W).
            step: size of the step.
            step_index: its index.
            options: not used; this network does not sample.

        Returns:
            (D, R, H, W).
        """
        count = min(self.components, components.shape[1])
        x = components[:, :count] / step
        missing = self.components - count
        x = F.pad(x, (0, 0, 0, 0, 0, missing))
        features = self.head(torch.cat([x / 8, x.clamp(-2, 2)], 1))
        shift = self.step(step_inputs(step_index).to(x))
        for block in self.blocks:
            features = block(features, shift)
        correction = self.tail(features)[:, :count] * step
        return torch.cat([components[:, :count] + correction, components[:, count:]], 1)

    def remaining(self, components: Tensor, original: Tensor, step: float, step_index: int, seed: int) -> Tensor:
        """Squared error after refinement, as a fraction of that before.

        Args:
            components: (D, R, H, W) decoded.
            original: the same, before quantization.
            step: size of the step.
            step_index: its index.
            seed: not used; this network does not sample.
        """
        before = (components - original).square().sum().clamp(min=1e-12)
        return (self(components, step, step_index) - original).square().sum() / before


def build(options: Options) -> ConvRefinement:
    """Build the network."""
    return ConvRefinement(options)
