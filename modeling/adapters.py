"""Adapters from a tokenizer of photographs to cine MRI: a channel adapter and a phase adapter.

Both are the identity at initialisation, so at step 0 the model equals the published tokenizer.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from modeling.layers.transformer import PhaseAttention
from utils.config.ranges import Heads, Range


@dataclass
class AdapterConfig:
    """Options of the adapters.

    Args:
        phase_layers: number of attention layers over the phases, between encoder and quantizer; 0 for no phase adapter.
        phase_heads: number of heads of each layer.
    """

    phase_layers: Annotated[int, Range(0, 64)] = 1
    phase_heads: Heads = 8


class Adapters(nn.Module):
    """Channel adapter (1 to 3 channels) and phase adapter (attention over T at each latent token).

    Args:
        width: width E of the encoder's latents.
        config: options.
    """

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.channel = nn.Conv2d(1, 3, 1)
        nn.init.ones_(self.channel.weight)
        self.channel.bias = nn.Parameter(torch.zeros(3))
        self.phase = nn.ModuleList(PhaseAttention(width, config.phase_heads) for _ in range(config.phase_layers))

    def to_rgb(self, frames: Tensor) -> Tensor:  # (N, 1, H, W)
        """Convert frames to three channels for the tokenizer, (N, 3, H, W)."""
        weight, bias = (value.view(3, 1, 1) for value in self.channel.parameters())
        return frames * weight + bias  # equal to the 1x1 convolution, several times faster

    def along_phases(self, latents: Tensor, phase: Tensor) -> Tensor:  # (G, T, K, E), (G, T)
        """Apply attention over the phases of the cycle to the latents, (G, T, K, E)."""
        for layer in self.phase:
            latents = latents + layer(latents, phase)
        return latents


def to_gray(rgb: Tensor) -> Tensor:  # (N, 3, H, W)
    """Return the mean over the colour channels, (N, 1, H, W)."""
    return torch.mean(rgb, dim=1, keepdim=True)
