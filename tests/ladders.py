"""Tiny ladders with fixed or trained weights, and cines for them."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling.draws import no_draws
from modeling.objective import build_objective
from modeling.titok import TiTok
from tests.losses import weighted_sum
from tests.tiny import tiny_config
from utils.ladder.pyramid import band_shapes
from utils.types import Batch


@cache
def fixed_ladder(seed: int = 0) -> TiTok:
    """A ladder whose weights are the same on every machine, multiples of 1/64; tests share it and may not change it."""
    random, model = np.random.RandomState(seed), TiTok(tiny_config(layout="ladder")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(random.randint(-8, 9, tuple(parameter.shape)) / 64))
    return model.requires_grad_(False)


@cache
def trained_ladder() -> TiTok:
    """A ladder after a short training on smooth cines; tests share it and may not change it."""
    torch.manual_seed(0)
    model, objective = TiTok(tiny_config(layout="ladder")), build_objective({"rate": {}, "refinement": {}})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        batch = batch_of(smooth_cine(seed=step), seed=step)
        optimizer.zero_grad()
        weighted_sum(objective, model(batch, no_draws(batch)), batch).backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def smooth_cine(slices: int = 2, phases: int = 5, height: int = 24, width: int = 28, seed: int = 0) -> Tensor:
    """Beating discs on a smooth background with a little noise, (D, T, H, W) in [0, 1]."""
    random = np.random.RandomState(seed)
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    cine = np.zeros((slices, phases, height, width))
    for _ in range(3):
        row, column, size, level, start = random.rand(5)
        for phase in range(phases):
            beat = 1 + 0.3 * np.sin(2 * np.pi * (phase / phases + start))
            distance = np.hypot(rows - row, columns - column)
            cine[:, phase] += (level - 0.3) * (distance < (0.1 + 0.2 * size) * beat)
    cine += 0.3 + 0.2 * np.cos(5 * random.rand() * rows + 5 * random.rand() * columns)
    cine += 0.02 * random.randn(*cine.shape)
    return torch.from_numpy(cine.clip(0, 1)).float()


def random_symbols(
    size: tuple[int, int], slices: int = 2, rank: int = 3, seed: int = 0, spread: float = 1.0
) -> list[list[np.ndarray]]:
    """Symbols (D, R, h, w) a band, most of them small; later components and finer bands have fewer."""
    random, symbols = np.random.RandomState(seed), []
    for number, level in enumerate(band_shapes(*size)):
        scale = spread * 3.0 ** (1 - number) / (1 + np.arange(rank)[None, :, None, None])
        rows = [random.laplace(size=(slices, rank, *shape)) * scale for shape in level]
        symbols.append([np.rint(row).astype(np.int32) for row in rows])
    return symbols


def as_tensors(symbols: list[list[np.ndarray]]) -> list[list[Tensor]]:
    """Symbols as tensors."""
    return [[torch.from_numpy(band) for band in level] for level in symbols]


def as_input(*cines: Tensor) -> Tensor:
    """Cines (D, T, H, W) of one size as the input of a model, (B, 1, H, W, D, T)."""
    return torch.stack(cines).permute(0, 3, 4, 1, 2)[:, None]


def batch_of(*cines: Tensor, seed: int = 0, **changes: Any) -> Batch:
    """Cines of one size as a batch."""
    image = torch.stack(cines)[:, :, :, None]
    count, slices, phases, _, height, width = image.shape
    batch = Batch(
        image=image, mask=torch.zeros(count, slices, phases, height, width, dtype=torch.uint8),
        has_label=torch.zeros(count, slices, phases, dtype=torch.bool),
        field=torch.ones(count, slices, height, width, dtype=torch.bool),
        slice_position=torch.full((count, slices), 0.5), phase=(torch.arange(phases) / phases).expand(count, -1),
        key_frames=torch.full((count, 2), -1), spacing_mm=torch.ones(count, 3), bsa_m2=torch.ones(count),
        sample_seed=torch.arange(count) + seed, patient=torch.arange(count), key=[str(i) for i in range(count)],
    )  # fmt: skip
    return batch._replace(**changes)
