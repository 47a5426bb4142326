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
        image: (B, 1, H, W, D, T) float32 in [0, 1]; 0 in padding.
        mask: (B, H, W, D, T) uint8; 0 background, 1 RV, 2 MYO, 3 LV; 0 if `has_label` is False.
        has_label: (B, D, T) bool; True where a ground-truth mask exists (ED and ES).
        field: (B, H, W, D) bool; True for pixels with a native pixel, False in padding.
        slice_position: (B, D) float32 in (0, 1); (slice index + 0.5) / slices of the stack; 0.5 in padding.
        phase: (B, T) float32 in [0, 1); phase index / phases of the cycle.
        key_frames: (B, 2) int64; positions of ED and ES along T, -1 if they are not among the phases (unit `frame`, or
            no key frames).
        spacing_mm: (B, 3) float32; along H, W and D, on this grid.
        bsa_m2: (B,) float32; body surface, NaN if height or weight is unknown.
        sample_seed: (B,) int64; function of (seed, epoch, key); seed of all random draws of the sample.
        patient: (B,) int64; hash of the patient's name.
        key: B sample ids, such as `patient001_z03`.
        tokens: (B, D, T, K) int64 ids from a token cache, -1 in padding slices; None without a cache.
        finest_mm: smallest in-plane spacing of the batch, on the host, so that reading it does not wait for a device.
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
    finest_mm: float = 0.5

    def to(self, device: torch.device | str) -> "Batch":
        """Move every tensor to a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]  # key, the one list, is never among them

    def there(self) -> Tensor:
        """(B, D) bool: True for slices that are not padding."""
        return self.field.any(2).any(1)

    def frames(self) -> Tensor:
        """(B * D * T,) bool: True for frames that are not padding, in the order of the model's tokens."""
        return self.there().flatten().repeat_interleave(self.phase.shape[1])

    def key_labels(self) -> tuple[Tensor, Tensor]:
        """Ground truth at ED and ES: labels (B, D, 2, H, W) int64, and whether it exists, (B, D, 2) bool."""
        rows = torch.arange(len(self.mask), device=self.mask.device)[:, None]
        keys = self.key_frames.clamp(min=0)
        labels = self.mask.permute(0, 4, 3, 1, 2)[rows, keys].transpose(1, 2).long()
        labelled = self.has_label.transpose(1, 2)[rows, keys].transpose(1, 2)
        return labels, labelled & (self.key_frames >= 0)[:, None]
