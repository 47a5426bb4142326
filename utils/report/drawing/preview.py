"""A preview during training: a picture of held-out slices with their reconstructions, and the quality in numbers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from utils.clinical import dice
from utils.labels import STRUCTURES
from utils.metrics import finite_mean, psnr
from utils.run.log import RunLog
from utils.types import Batch

ERROR_SCALE = 4.0


@torch.no_grad()
def preview(
    model: nn.Module, batch: Batch, draws: Any, groups: Sequence[str], step: int, log: RunLog
) -> dict[str, float]:
    """Write the quality of held-out slices, decoded from tokens alone on the model's grid, and a picture of them.

    The log receives `val_psnr` in dB of the reconstructions; `val_bits_per_pixel` of a ladder, a mean over drawn steps;
    `val_dice_RV`, `val_dice_MYO` and `val_dice_LV` of the segmenter on the originals at ED and ES (all slices as one
    stack); the keys of `dice_of_groups`, of the segmenter on the reconstructions; and the picture `samples/val_...`:
    originals above reconstructions above errors. A model that only segments has originals above ground truth above
    labels.

    Args:
        model: called as in training, with `draws`.
        batch: held-out slices on the model's device.
        draws: of a pass without randomness, modeling/draws.py.
        groups: diagnosis of each patient, "" where unknown.
        step: number of optimizer steps that are done.
        log: the log of the run.

    Returns:
        The values by name.
    """
    result = model(batch, draws)
    original = planes(batch.image)
    pictures = [original]
    values = {}
    if result.reconstruction is not None:
        decoded = planes(result.reconstruction)
        field = batch.field[:, 0].cpu().numpy()
        scores = [psnr(x, y, field[b]) for b in range(len(field)) for x, y in zip(original[b], decoded[b], strict=True)]
        values["val_psnr"] = finite_mean(scores)
        pictures += [decoded, np.clip(ERROR_SCALE * np.abs(decoded - original), 0, 1)]
    if result.ladder is not None:
        values["val_bits_per_pixel"] = float(result.ladder.bits.mean(1).sum()) / batch.image.numel()
    if result.segmenter is not None:
        values |= dice_of_groups(result.segmenter.logits.argmax(3).cpu().numpy(), batch, groups)
    if result.logits is not None:
        labels = result.logits.argmax(3).cpu().numpy()  # (B, D, 2, H, W)
        truth, labelled = (x.cpu().numpy() for x in batch.key_labels())
        for name, label in STRUCTURES.items():
            values[f"val_dice_{name}"] = dice(labels[labelled] == label, truth[labelled] == label)
    if result.reconstruction is None:
        ed = int(batch.key_frames[0, 0])
        pictures = [original[:, ed : ed + 1], truth[:, 0, :1] / 3, labels[:, 0, :1] / 3]
    log.write(step, values)
    first = torch.from_numpy(np.concatenate([x[:, 0] for x in pictures]))[:, None]  # (rows * B, 1, H, W)
    sheet = make_grid(first, nrow=len(original), padding=2, pad_value=1.0)
    log.image("val", step, sheet.permute(1, 2, 0).numpy())
    return values


def dice_of_groups(labels: np.ndarray, batch: Batch, groups: Sequence[str]) -> dict[str, float]:
    """Mean Dice over the structures: of all patients, of each group and of the worst group.

    Args:
        labels: (B, D, 2, H, W) as segmented at ED and ES.
        batch: with the ground truth.
        groups: diagnosis of each patient, "" where unknown.

    Returns:
        `val_dice_decoded`, `val_dice_decoded_GROUP` for each group, and `val_dice_decoded_worst`.
    """
    truth, labelled = (x.cpu().numpy() for x in batch.key_labels())

    def mean(chosen: np.ndarray) -> float:  # (B,) bool
        where = labelled & chosen[:, None, None]
        return finite_mean([dice(labels[where] == label, truth[where] == label) for label in STRUCTURES.values()])

    names = np.array(groups)
    by_group = {name: mean(names == name) for name in sorted({*groups} - {""})}
    measured = [value for value in by_group.values() if math.isfinite(value)]
    worst = {"val_dice_decoded_worst": min(measured)} if measured else {}
    named = {f"val_dice_decoded_{name}": value for name, value in by_group.items()}
    return {"val_dice_decoded": mean(np.ones(len(names), bool)), **named, **worst}


def planes(image: Tensor) -> np.ndarray:  # (B, D, T, 1, H, W)
    """The first slice's frames in [0, 1], (B, T, H, W)."""
    return image[:, 0, :, 0].float().clamp(0, 1).cpu().numpy()
