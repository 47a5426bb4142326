"""A look at a run while it trains: held-out slices, original above reconstruction above error."""

import numpy as np
import torch
from torch import nn

from utils.log import RunLog
from utils.metrics import psnr
from utils.types import Batch

ERROR_SCALE = 4.0


@torch.no_grad()
def preview(model: nn.Module, batch: Batch, step: int, log: RunLog) -> None:
    """Write the PSNR of held-out slices (decoded from tokens alone, on the model's grid) and a picture of them.

    Args:
        model: called as in training, with flow time and noise zero.
        batch: held-out slices on the model's device.
        step: optimizer steps done.
        log: the run's log; receives `val_psnr` in dB and the picture `samples/val_...`.
    """
    zero = torch.zeros_like(batch.image)
    result = model(batch.image, batch.slice_position, batch.phase, zero[:, 0, 0, 0, 0, 0], zero).reconstruction
    original, decoded = (x[:, 0, :, :, 0].float().clamp(0, 1).cpu().numpy() for x in (batch.image, result))
    field = batch.field.cpu().numpy()
    phases = original.shape[-1]
    values = [
        psnr(original[b, ..., t], decoded[b, ..., t], field[b]) for b in range(len(original)) for t in range(phases)
    ]
    log.write(step, {"val_psnr": float(np.mean(values))})
    error = np.clip(ERROR_SCALE * np.abs(decoded - original), 0, 1)
    rows = [np.concatenate(list(x[..., 0]), axis=1) for x in (original, decoded, error)]
    log.image("val", step, np.concatenate(rows, axis=0))
