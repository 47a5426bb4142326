"""The codebook during training: initialised by k-means; unused entries are replaced."""

from typing import Any

import torch
from torch import Tensor

from data.loading.dataset import CineDataset
from data.loading.stream import CineStream, make_loader
from modeling.draws import no_draws
from modeling.prediction import Prediction
from modeling.titok import TiTok
from utils.ranks import gather_rows
from utils.run.ema import EMA
from utils.types import Batch

CODEBOOK = "tokenizer.quantize.embedding.weight"


@torch.no_grad()
def fit_codebook(model: TiTok, dataset: CineDataset | CineStream, seed: int, device: torch.device, step: int) -> None:
    """Initialise the codebook by k-means on latents of training samples, with the same result on every rank.

    Raises:
        ValueError: for latents that are not finite.
    """
    needed, latents = 32 * model.config.tokenizer.vq_model.codebook_size, []
    for batch in make_loader(dataset, global_batch_size=32):
        batch = batch.to(device)
        quantized = model.encoder.train(batch, no_draws(batch)).quantized
        assert quantized is not None
        latents.append(quantized.z[batch.valid_frames()].flatten(0, 1))
        if sum(len(part) for part in latents) >= needed:
            break
    z = torch.cat(latents)
    if not z.isfinite().all():
        raise ValueError(
            f"the latents are not finite at step {step}, where k-means initialises the codebook; lower "
            "optimizer.learning_rate or training.continuous_steps"
        )
    model.tokenizer.quantize.fit_codebook(z, seed)


def reseed_codebook(
    model: TiTok, prediction: Prediction, batch: Batch, dead: Tensor, seed: int, optimizer: Any, ema: EMA
) -> None:
    """Replace unused entries by latents of this batch, with the same result on every rank; restart their averages."""
    z = prediction.tokens()[0].z[batch.valid_frames()].flatten(0, 1).detach()
    model.tokenizer.quantize.reseed(dead, gather_rows(z), seed)
    for name in ("exp_avg", "exp_avg_sq"):
        optimizer.state[model.tokenizer.quantize.embedding.weight][name][dead] = 0
    ema.restart(CODEBOOK, dead)
