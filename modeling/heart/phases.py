"""Phases of the cardiac cycle: their positions, and the choice of ED and ES."""

import torch
from torch import Tensor


def cycle(phases: int, device: torch.device) -> Tensor:
    """Return the positions of T evenly spaced phases in the cycle, (1, T) in [0, 1)."""
    return (torch.arange(phases, device=device) / phases)[None]


def along_stack(slices: int, device: torch.device) -> Tensor:
    """Return the relative positions of the slices of a stack, (D,) in (0, 1)."""
    return (torch.arange(slices, device=device) + 0.5) / slices


def at_phases(x: Tensor, phases: Tensor) -> Tensor:  # (B, D, T, ...), (B, M)
    """Select frames or masks at M phases of each volume, (B, D, M, ...)."""
    rows = torch.arange(len(x), device=x.device)[:, None]
    return x.transpose(1, 2)[rows, phases].transpose(1, 2)


def key_phases(
    x: Tensor, ed: Tensor | int | None, es: Tensor | int | None, lv: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ED and ES of each volume, (B,) each: as given, or the phases of largest and smallest LV.

    Without a segmented LV they are phase 0 and the phase that differs most from it.

    Args:
        x: (B, D, T, C, H, W).
        ed: phase of end-diastole, an int or (B,).
        es: phase of end-systole, an int or (B,).
        lv: (B, T) segmented LV volume in any unit, 0 if no LV was segmented.

    Raises:
        ValueError: for a phase out of range.
    """
    batch, phases = x.shape[0], x.shape[2]
    segmented = torch.zeros(batch, dtype=torch.bool, device=x.device) if lv is None else lv.amax(1) > 0
    lv = x.new_zeros(batch, phases) if lv is None else lv
    first = lv.argmax(1) * segmented if ed is None else given_phases("ed", ed, x)
    if es is None:
        reference = at_phases(x, first[:, None])  # (B, D, 1, C, H, W)
        es = (x - reference).abs().float().mean(dim=(1, 3, 4, 5)).argmax(dim=1)
        es = torch.where(segmented, lv.argmin(1), es)
    return first, given_phases("es", es, x)


def given_phases(name: str, value: Tensor | int, x: Tensor) -> Tensor:
    """Convert an int or (B,) to a LongTensor (B,) of phases of x, (B, D, T, C, H, W); a ValueError names it."""
    phases = torch.as_tensor(value, dtype=torch.long, device=x.device).expand(len(x))
    if int(phases.min()) < 0 or int(phases.max()) >= x.shape[2]:
        raise ValueError(f"{name} = {phases.tolist()}: expected phases 0 to {x.shape[2] - 1} of this cine")
    return phases
