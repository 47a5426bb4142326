"""Preview of a run while it trains: held-out slices, their reconstructions, and the quality."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.clinical import dice
from utils.log import RunLog
from utils.metrics import finite_mean, psnr
from utils.types import Batch

ERROR_SCALE = 4.0
STRUCTURES = {"RV": 1, "MYO": 2, "LV": 3}


@torch.no_grad()
def preview(model: nn.Module, batch: Batch, draws: Any, groups: Sequence[str], step: int, log: RunLog) -> None:
    """Write the quality of held-out slices, decoded from tokens alone on the model's grid, and a picture of them.

    Args:
        model: called as in training, with `draws`.
        batch: held-out slices on the model's device.
        draws: of a pass without randomness.
        groups: of their patients, "" where unknown.
        step: optimizer steps done.
        log: the run's log; receives `val_psnr` in dB of the reconstruction, `val_dice_RV`, `_MYO`, `_LV` of the
            segmenter on the originals at ED and ES (all slices as one stack), and of its mean over structures on the
            reconstructions `val_dice_decoded`, by group `val_dice_decoded_GROUP` and of the worst of them; and the
            picture `samples/val_...`: originals above reconstructions above errors, or labels.
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
    if result.segmenter is not None:
        values |= dice_of_groups(result.segmenter.logits.argmax(3).cpu().numpy(), batch, groups)
    if result.logits is not None:
        labels = result.logits.argmax(3).cpu().numpy()  # (B, D, 2, H, W)
        truth, labelled = (x.cpu().numpy() for x in batch.key_labels())
        for name, label in STRUCTURES.items():
            values[f"val_dice_{name}"] = dice(labels[labelled] == label, truth[labelled] == label)
    if result.reconstruction is None:
        first = int(batch.key_frames[0, 0])
        pictures = [original[:, first : first + 1], truth[:, 0, :1] / 3, labels[:, 0, :1] / 3]
    log.write(step, values)
    log.image("val", step, np.concatenate([np.concatenate(list(x[:, 0]), axis=1) for x in pictures], axis=0))


def dice_of_groups(labels: np.ndarray, batch: Batch, groups: Sequence[str]) -> dict[str, float]:
    """Mean Dice over the structures of predicted labels (B, D, 2, H, W): of all, by group, of the worst group."""
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
