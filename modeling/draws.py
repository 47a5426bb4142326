"""Random numbers of a training pass: functions of the seed of a sample, independent of batch, rank and worker."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modeling import flow
from utils.layout import NOT_TRANSMITTED
from utils.seeding import stable_seed
from utils.types import Batch


class Draws(NamedTuple):
    """Random numbers of the B samples of a batch.

    Args:
        t: (B,) flow times in [0, 1); 0 if x̂ is decoded from tokens alone.
        anatomy: (B,) bool, True if the anatomy tokens are transmitted.
        keep: (B,) number of transmitted tokens; None for all.
        noise: (B, D, T, 1, H, W); None for zeros.
        step: optimizer step, for losses with warm-up.
    """

    t: Tensor
    anatomy: Tensor
    keep: Tensor | None = None
    noise: Tensor | None = None
    step: int = 0

    @property
    def one_step(self) -> Tensor:
        """Samples that are decoded from tokens alone, (B,) bool."""
        return self.t == 0

    def to(self, device: torch.device | str) -> "Draws":
        """Move every tensor to a device."""
        moved = {k: v.to(device, non_blocking=True) for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**moved)  # type: ignore[arg-type]  # step is not a tensor

    def first_tokens(self, available: int) -> Tensor:
        """Return which tokens are transmitted, (B, available) bool."""
        assert self.keep is not None
        return torch.arange(available, device=self.keep.device) < self.keep[:, None]

    def kept(self, ids: Tensor) -> Tensor:  # (B, D, T, K)
        """Set the ids of tokens that are not transmitted to -1."""
        if self.keep is None:
            return ids
        return ids.masked_fill(~self.first_tokens(ids.shape[3])[:, None, None], NOT_TRANSMITTED)


def no_draws(batch: Batch) -> Draws:
    """Return the values of a pass without randomness: decoded in one step, all tokens transmitted."""
    t = torch.zeros(len(batch.image), device=batch.image.device)
    return Draws(t, t == 0)


def draw(
    batch: Batch, times: flow.FlowConfig | None, anatomy_dropout: float, budgets: Sequence[int], step: int
) -> Draws:
    """Draw the random numbers of a batch that is on the CPU, so that no device synchronisation is needed.

    Args:
        batch: the samples; only `sample_seed` is used.
        times: distribution of flow times; None without a DiT.
        anatomy_dropout: fraction of samples without anatomy tokens.
        budgets: numbers of tokens, one of which is drawn for each sample; empty for all tokens.
        step: optimizer step.
    """
    seeds = batch.sample_seed.tolist()
    t = torch.zeros(len(seeds)) if times is None else flow.draw_times(batch.sample_seed, times)
    anatomy = torch.tensor([stable_seed(seed, "anatomy") / 2**63 for seed in seeds]) >= anatomy_dropout
    keep = [budgets[stable_seed(seed, "budget") % len(budgets)] for seed in seeds] if budgets else None
    return Draws(t, anatomy, None if keep is None else torch.tensor(keep), step=step)
