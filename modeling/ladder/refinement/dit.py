"""Refinement by a DiT: it predicts the error of quantization of decoded components, or samples it.

The path of the flow is that of modeling/flow.py, in units of the error: at t = 0 with zero noise the network gives the
posterior mean, which has the highest PSNR; from noise it draws a sample, for realism. It works at any size,
because positions are encoded only by the rotation of queries and keys. Its last layer is zero at initialisation, so an
untrained network changes nothing.

Axes: D slices, R components, H and W, P patches, E width.

Source: Peebles & Xie, Scalable Diffusion Models with Transformers, 2023 (adaLN-Zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modeling.flow import SamplerOptions, decode
from modeling.ladder.quantizer import STEPS
from modeling.layers.dit_blocks import DiTBlock, FinalLayer, rope_angles
from modeling.layers.transformer import grid_points, sinusoid, zero_
from utils.config.ranges import Range

ERROR_RMS = 0.35  # of the error of quantization, in steps; the network works in multiples of it
FREQUENCIES = 128


@dataclass
class Options:
    """Options of the refinement.

    Args:
        width: E.
        layers: number of blocks.
        heads: number of heads.
        patch: side of a patch in pixels.
        components: number of components that it refines.
    """

    width: Annotated[int, Range(16, 4096)] = 192
    layers: Annotated[int, Range(1, 64)] = 6
    heads: Annotated[int, Range(1, 64)] = 6
    patch: Annotated[int, Range(1, 64)] = 8
    components: Annotated[int, Range(1, 64)] = 12

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise ValueError(
                f"width {self.width} is not a multiple of 4 * heads = {4 * self.heads}; change one of them"
            )


class DiTRefinement(nn.Module):
    """The network.

    Args:
        config: its size.
    """

    def __init__(self, config: Options) -> None:
        super().__init__()
        width, self.components, self.patch = config.width, config.components, config.patch
        self.head_width = width // config.heads
        self.x_embedder = nn.Conv2d(3 * config.components, width, config.patch, stride=config.patch)
        self.t_embedder = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(DiTBlock(width, config.heads, cross=False) for _ in range(config.layers))
        self.final_layer = FinalLayer(width, config.patch, 2 * config.components)
        self.tail = nn.Conv2d(4 * config.components, config.components, 3, padding=1)
        zero_(self.adaLN_modulation[-1], self.final_layer.adaLN_modulation[-1], self.tail)

    def forward(
        self, components: Tensor, step: float, step_index: int, options: SamplerOptions | None = None
    ) -> Tensor:
        """Refine decoded components (D, R, H, W); `options` asks for a sample."""
        draft = self.draft(components, step)
        count, (height, width) = min(self.components, components.shape[1]), components.shape[2:]

        def predict(x: Tensor, t: Tensor) -> Tensor:  # (D, 1, components, H', W'), (D,)
            return self.error(x[:, 0], t, draft, step_index)[:, None]

        like = draft[:, None, : self.components]
        error = decode(predict, like, options or SamplerOptions(), range(len(components)))[:, 0]
        error = error[:, :count, :height, :width] * (ERROR_RMS * step)
        return torch.cat([components[:, :count] + error, components[:, count:]], 1)

    def remaining(self, components: Tensor, original: Tensor, step: float, step_index: int, seed: int) -> Tensor:
        """Squared error after a training pass, as a fraction of the error of the decoded components.

        Half of the passes predict from t = 0 with zero noise. The others predict from a point of the path, and are
        weighted as an error of the velocity.

        Args:
            components: (D, R, H, W) decoded.
            original: the same, before quantization.
            step, step_index: of the quantizer.
            seed: of time and noise.
        """
        random = torch.Generator(components.device).manual_seed(seed)
        draft = self.draft(components, step)
        error = self.fit((original - components) / (ERROR_RMS * step))[:, : self.components]
        which = torch.rand((), generator=random, device=error.device)
        logit = torch.randn((), generator=random, device=error.device)
        t = logit.sigmoid() * (which > 0.5)
        noise = torch.randn(error.shape, generator=random, device=error.device) * (t > 0)
        prediction = self.error(t * error + (1 - t) * noise, t.expand(len(error)), draft, step_index)
        left = (prediction - error).square().sum() / error.square().sum().clamp(min=1e-6)
        return left / (1 - t).clamp(min=0.2) ** 2

    def error(self, x: Tensor, t: Tensor, draft: Tensor, step_index: int) -> Tensor:
        """Predict the error.

        Args:
            x: (D, components, H, W) point of the path.
            t: (D,) flow time.
            draft: (D, 2 * components, H, W), from `draft`.
            step_index: of the quantizer.

        Returns:
            (D, components, H, W).
        """
        features = self.x_embedder(torch.cat([x, draft], 1))
        rows, columns = features.shape[2:]
        h = features.flatten(2).transpose(1, 2)[:, None]  # (D, 1, P, E)
        index = torch.full_like(t, step_index / STEPS)
        c = self.t_embedder(torch.cat([sinusoid(t, FREQUENCIES, 1000.0), sinusoid(index, FREQUENCIES, 100.0)], -1))
        modulation = self.adaLN_modulation(c).unflatten(1, (6, -1))
        angles = rope_angles(grid_points(rows, columns), self.head_width).to(h)
        phase = torch.zeros(len(h), 1, device=h.device)
        for block in self.blocks:
            h = block(h, modulation, angles, phase, None)
        out = self.final_layer(h, c)[:, 0]  # (D, P, patch * patch * 2 * components)
        p = self.patch
        image = out.view(len(out), rows, columns, p, p, -1).permute(0, 5, 1, 3, 2, 4)
        image = image.reshape(len(out), -1, rows * p, columns * p)
        return self.tail(torch.cat([F.gelu(image), draft], 1))

    def draft(self, components: Tensor, step: float) -> Tensor:
        """Decoded components in steps, at two scales, (D, 2 * components, H', W')."""
        x = self.fit(components / step)[:, : self.components]
        return torch.cat([x / 8, x.clamp(-2, 2)], 1)

    def fit(self, x: Tensor) -> Tensor:
        """Add components of zeros, and rows and columns up to a multiple of the patch."""
        below, right = -x.shape[2] % self.patch, -x.shape[3] % self.patch
        return F.pad(x, (0, right, 0, below, 0, max(0, self.components - x.shape[1])))


def build(options: Options) -> DiTRefinement:
    """Build the network."""
    return DiTRefinement(options)
