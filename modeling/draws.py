"""Random numbers of a training pass: each a function of a sample's seed, whatever the batch, rank or worker."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modeling import flow
from utils.layout import NOT_TRANSMITTED
from utils.seeding import stable_seed
from utils.types import Batch


class Draws(NamedTuple):
    """What is drawn for the B samples of a batch.

    Args:
        t: (B,) flow times in [0, 1); 0 where x̂ is decoded from tokens alone.
        anatomy: (B,) bool, True where the anatomy tokens are transmitted.
        keep: (B,) how many tokens are transmitted; None for all.
        noise: (B, D, T, 1, H, W); None for zeros.
        step: of the optimizer, for losses that begin later.
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
        return self._replace(**moved)  # type: ignore[arg-type]  # step is never among them

    def first_tokens(self, available: int) -> Tensor:
        """Which of the tokens are transmitted, (B, available) bool."""
        assert self.keep is not None
        return torch.arange(available, device=self.keep.device) < self.keep[:, None]

    def kept(self, ids: Tensor) -> Tensor:  # (B, D, T, K)
        """Token ids with -1 for those that are not transmitted."""
        if self.keep is None:
            return ids
        return ids.masked_fill(~self.first_tokens(ids.shape[3])[:, None, None], NOT_TRANSMITTED)


def no_draws(batch: Batch) -> Draws:
    """A pass without randomness, as at inference: decoded in one step, all tokens transmitted."""
    t = torch.zeros(len(batch.image), device=batch.image.device)
    return Draws(t, t == 0)


def draw(
    batch: Batch, times: flow.FlowConfig | None, anatomy_dropout: float, budgets: Sequence[int], step: int
) -> Draws:
    """Draw for a batch that is still on the CPU, so that no device is waited for.

    Args:
        batch: its `sample_seed` counts.
        times: distribution of flow times; None where no DiT decodes.
        anatomy_dropout: share of samples whose anatomy is not transmitted.
        budgets: numbers of tokens, one of which is drawn for each sample; empty for all tokens.
        step: of the optimizer.
    """
    seeds = batch.sample_seed.tolist()
    t = torch.zeros(len(seeds)) if times is None else flow.draw_times(batch.sample_seed, times)
    anatomy = torch.tensor([stable_seed(seed, "anatomy") / 2**63 for seed in seeds]) >= anatomy_dropout
    keep = [budgets[stable_seed(seed, "budget") % len(budgets)] for seed in seeds] if budgets else None
    return Draws(t, anatomy, None if keep is None else torch.tensor(keep), step=step)
