"""Types shared by data and modeling.

Axes, everywhere: B batch, C channels, H height, W width, D slices in stored order, T phases of the cardiac cycle.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """A batch of frames (D = T = 1), slices (D = 1) or stacks (all slices, with ED and ES).

    Stacks with fewer slices than the batch are padded at the end.

    Args:
        image: (B, D, T, 1, H, W) float32 in [0, 1]; 0 in padding.
        mask: (B, D, T, H, W) uint8; 0 background, 1 RV, 2 MYO, 3 LV; 0 wherever `has_label` is False.
        has_label: (B, D, T) bool; True where a ground-truth mask exists (ED and ES).
        field: (B, D, H, W) bool; True where a native pixel lies under the grid, False in padding pixels and slices.
        slice_position: (B, D) float32 in (0, 1); (slice index + 0.5) / slices of the stack; 0.5 in padding.
        phase: (B, T) float32 in [0, 1); phase index / phases of the cycle.
        key_frames: (B, 2) int64; positions of ED and ES along T, -1 if they are not among the phases (unit `frame`, or
            no key frames).
        spacing_mm: (B, 3) float32; along H, W and D, on this grid.
        bsa_m2: (B,) float32; body surface area, NaN where height or weight is unknown.
        sample_seed: (B,) int64; a function of (seed, epoch, key), from which all randomness of the sample follows.
        patient: (B,) int64; the same number for samples of one patient, a hash of the name.
        key: B sample ids, such as `patient001_z03`.
        tokens: (B, D, T, K) int64 ids from a token cache, -1 in padding slices; None without a cache.
        has_key_frames: whether ED and ES are among the phases of every sample; known on the CPU.
        finest_mm: the smallest in-plane spacing of the batch; known on the CPU, to avoid a device synchronisation.
    """

    image: Tensor
    mask: Tensor
    has_label: Tensor
    field: Tensor
    slice_position: Tensor
    phase: Tensor
    key_frames: Tensor
    spacing_mm: Tensor
    bsa_m2: Tensor
    sample_seed: Tensor
    patient: Tensor
    key: list[str]
    tokens: Tensor | None = None
    has_key_frames: bool = False
    finest_mm: float = 0.5

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor to a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]  # only tensors are among them

    def valid(self) -> Tensor:
        """Return which slices are not padding, (B, D) bool."""
        return self.field.any(3).any(2)

    def valid_frames(self) -> Tensor:
        """Return which frames are not padding, (B * D * T,) bool, in the order of the model's tokens."""
        return self.valid().flatten().repeat_interleave(self.phase.shape[1])

    def key_labels(self) -> tuple[Tensor, Tensor]:
        """Ground truth at ED and ES: labels (B, D, 2, H, W) int64, and whether it exists, (B, D, 2) bool."""
        rows = torch.arange(len(self.mask), device=self.mask.device)[:, None]
        keys = self.key_frames.clamp(min=0)
        labels = self.mask.transpose(1, 2)[rows, keys].transpose(1, 2).long()
        labelled = self.has_label.transpose(1, 2)[rows, keys].transpose(1, 2)
        return labels, labelled & (self.key_frames >= 0)[:, None]
