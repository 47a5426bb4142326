"""Phases of the cardiac cycle: where they lie, and which of them are ED and ES."""

import torch
from torch import Tensor


def cycle(phases: int, device: torch.device) -> Tensor:
    """Phases of a cycle evenly spaced from 0, (1, T)."""
    return (torch.arange(phases, device=device) / phases)[None]


def key_phases(x: Tensor, ed: Tensor | int | None, es: Tensor | int | None) -> tuple[Tensor, Tensor]:
    """ED and ES of each volume, (B,) each: as given, else phase 0 and the phase most unlike it.

    Raises:
        ValueError: for a phase that the cine does not have.
    """
    batch, phases = x.shape[0], x.shape[5]
    first = torch.zeros(batch, dtype=torch.long, device=x.device) if ed is None else as_phases(ed, batch, x)
    if es is None:
        reference = x[torch.arange(batch, device=x.device), ..., first][..., None]  # (B, C, H, W, D, 1)
        es = (x - reference).abs().float().mean(dim=(1, 2, 3, 4)).argmax(dim=1)
    last = as_phases(es, batch, x)
    for name, value in (("ed", first), ("es", last)):
        if int(value.min()) < 0 or int(value.max()) >= phases:
            raise ValueError(f"{name} = {value.tolist()}: expected phases 0 to {phases - 1} of this cine")
    return first, last


def as_phases(value: Tensor | int, batch: int, x: Tensor) -> Tensor:
    """An int or (B,) as a LongTensor (B,)."""
    return torch.as_tensor(value, dtype=torch.long, device=x.device).expand(batch)
