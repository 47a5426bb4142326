"""What rooms of the house hand to one another.

Axes, everywhere: B batch, C channels, H height, W width, D slices in stored order, T phases of the cardiac cycle.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A batch of cine pieces; a single frame has D = T = 1, a slice has D = 1.

    Args:
        image: (B, 1, H, W, D, T) float32 in [0, 1].
        mask: (B, H, W, D, T) uint8; 0 background, 1 RV, 2 MYO, 3 LV; 0 wherever `has_label` is False.
        has_label: (B, D, T) bool; True where a ground-truth mask exists (ED and ES).
        field: (B, H, W) bool; True where a native pixel lies under the grid, False in padding.
        slice_position: (B, D) float32 in (0, 1); (slice index + 0.5) / slices of the stack.
        phase: (B, T) float32 in [0, 1); phase index / phases of the cycle.
        spacing_mm: (B, 3) float32; along H, W and D, on this grid.
        sample_seed: (B,) int64; a function of (seed, epoch, key), from which all randomness of the sample follows.
        key: B sample ids, such as `patient001_z03`.
    """

    image: Tensor
    mask: Tensor
    has_label: Tensor
    field: Tensor
    slice_position: Tensor
    phase: Tensor
    spacing_mm: Tensor
    sample_seed: Tensor
    key: list[str]

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor to a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]  # key, the one list, is never among them
