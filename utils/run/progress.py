"""Losses, gradients and ids since the last line of the log, stored on the device until they are needed.

No step reads from the device. All values are checked at each log line and before each checkpoint.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils.ranks import is_main, sum_over_ranks, world_size

ADVICE = "lower optimizer.learning_rate or training.max_grad_norm, or inspect these samples"
MOST_KEYS = 8
LOWEST_SCALE = 1e-3


class Progress:
    """Losses, gradient norms and counts of ids since the last line of the log.

    Args:
        terms: names of the losses.
        total: weighted sum of the losses from their sums and counts, (terms,) each.
        codes: number of ids of the codebook; 0 if nothing is counted.
        device: of the tensors.
    """

    def __init__(
        self, terms: Sequence[str], total: Callable[[Tensor, Tensor], Tensor], codes: int, device: torch.device
    ) -> None:
        self.terms, self.total = list(terms), total
        self.rows: list[Tensor] = []  # a step: sums and counts of this rank, (2, terms)
        self.norms: list[Tensor] = []  # a step: gradient norm, ()
        self.keys: list[list[str]] = []  # a step: samples of this rank
        self.usage = torch.zeros(codes, device=device)  # of each id, since the last line
        self.seen = torch.zeros(codes, device=device)  # of each id, since the last call of `unused`
        self.recent = torch.zeros(codes, device=device)  # of each id on all ranks, see `token_counts`

    def count(self, ids: Tensor | None) -> None:
        """Count the ids of a pass, without -1 and without a device synchronisation."""
        if ids is not None:
            flat = ids.flatten()
            counted = torch.zeros_like(self.usage).scatter_add_(0, flat.clamp(min=0), (flat >= 0).float())
            self.usage += counted
            self.seen += counted

    def unused(self) -> Tensor:
        """Return which ids no rank has used since the last call, (codes,) bool."""
        unused = sum_over_ranks(self.seen) == 0
        self.seen.zero_()
        return unused

    def token_counts(self) -> list[int]:
        """Return how often each id was used until the last line of the log, on all ranks.

        Each line counts half as much as the one after it: a codebook that is trained changes, but a last line of few
        steps does not count alone.
        """
        return [round(count) for count in self.recent.tolist()]

    def add(self, sums: Tensor, counts: Tensor, norm: Tensor, keys: list[str]) -> None:
        """Add a step.

        Args:
            sums: sums of the losses on this rank, (terms,).
            counts: this rank's share of the global counts, (terms,).
            norm: gradient norm, equal on all ranks, ().
            keys: samples of this rank.
        """
        self.rows.append(torch.stack([sums, counts]))
        self.norms.append(norm.detach().float())
        self.keys.append(keys)

    def check(self, done: int, weights: Mapping[str, Tensor], scaler: Any = None) -> None:
        """Raise the same error on all ranks if a value is not finite.

        Args:
            done: optimizer steps done.
            weights: content of the checkpoint, by name.
            scaler: loss scaling of fp16, which skips steps whose gradient is not finite and lowers its scale; or None.
        Raises:
            ValueError: naming the first step, the loss or weight, and the samples of that step.
        """
        if scaler is not None and scaler.get_scale() < LOWEST_SCALE:
            raise ValueError(
                f"the loss scale of fp16 is {scaler.get_scale():g} at step {done}: gradients are not finite at any "
                "scale; set training.mixed_precision=bf16 or no, or lower optimizer.learning_rate"
            )
        sums = sum_over_ranks(torch.stack(self.rows))[:, 0].cpu() if self.rows else torch.zeros(0, 0)
        norms = torch.stack(self.norms).cpu() if self.norms else torch.zeros(0)
        first = done - len(self.rows) + 1
        for number, (row, norm) in enumerate(zip(sums.tolist(), norms.tolist(), strict=True)):
            where = f"at step {first + number}"
            for name, value in zip(self.terms, row, strict=True):
                if not math.isfinite(value):
                    raise ValueError(f"losses.{name} is {value} {where}, samples {self._samples(number)}; {ADVICE}")
            if not math.isfinite(norm) and scaler is None:
                raise ValueError(
                    f"the gradient norm is {norm} {where} of finite losses ({', '.join(self.terms)}), samples "
                    f"{self._samples(number)}; {ADVICE}"
                )
        names = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        if names:
            finite = torch.stack([weights[name].isfinite().all() for name in names]).tolist()
            bad = [name for name, fine in zip(names, finite, strict=True) if not fine]
            if bad:
                raise ValueError(
                    f"{', '.join(bad[:4])}{f' and {len(bad) - 4} more' if len(bad) > 4 else ''}: not finite at step "
                    f"{done}; no checkpoint is written; the last one is healthy; {ADVICE.partition(', or')[0]}"
                )

    def line(self) -> dict[str, float]:
        """Return means of the losses, their counts (`count_NAME`), gradient norm and use of the codebook; then clear.

        Call `check` before it. The first value, `loss`, is the mean over the steps of the weighted sum.
        """
        sums, counts = sum_over_ranks(torch.stack(self.rows)).unbind(1)  # (steps, terms) each
        total = torch.stack([self.total(s, c) for s, c in zip(sums, counts, strict=True)]).mean()
        totals = counts.sum(0)
        named = dict(zip(self.terms, (sums.sum(0) / totals.clamp(min=1)).tolist(), strict=True))
        norms = torch.stack(self.norms)
        values = {
            "loss": float(total),
            **named,
            **{f"count_{name}": count for name, count in zip(named, totals.tolist(), strict=True)},
            "grad_norm": float(norms[norms.isfinite()].mean()),
            **codebook_use(self.usage),
        }
        self.recent = self.recent / 2 + sum_over_ranks(self.usage.clone())
        self.clear()
        return values

    def clear(self) -> None:
        """Forget all steps."""
        self.rows.clear()
        self.norms.clear()
        self.keys.clear()
        self.usage.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Return sums over all ranks, for a checkpoint; call it on all ranks."""
        rows = list(sum_over_ranks(torch.stack(self.rows))) if self.rows else []
        counts = {name: sum_over_ranks(tensor.clone()) for name, tensor in (("usage", self.usage), ("seen", self.seen))}
        return {"rows": rows, "norms": list(self.norms), **counts, "recent": self.recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint; the first rank takes the sums over all ranks, and the others begin at 0."""
        device, share = self.usage.device, float(is_main())
        self.rows = [row.to(device) * share for row in state["rows"]]
        self.norms = [norm.to(device) for norm in state["norms"]]
        self.keys = [[] for _ in self.rows]
        self.usage.copy_(state["usage"].to(device) * share)
        self.seen.copy_(state["seen"].to(device) * share)
        self.recent = state["recent"].to(device)

    def _samples(self, number: int) -> str:
        """Return the samples of a step, of all ranks; called on all ranks."""
        parts: list[Any] = [self.keys[number]]
        if world_size() > 1:
            parts = [None] * world_size()
            dist.all_gather_object(parts, self.keys[number])
        keys = sorted(key for part in parts for key in part)
        rest = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
        return (", ".join(keys[:MOST_KEYS]) or "unknown") + rest


def named_tensors(data: Any, name: str = "") -> dict[str, Tensor]:
    """Return all tensors in nested dicts, lists and tuples, by the dotted names of their places."""
    if isinstance(data, Tensor):
        return {name: data}
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list | tuple) else ()
    tensors: dict[str, Tensor] = {}
    for key, value in pairs:
        tensors |= named_tensors(value, f"{name}.{key}" if name else str(key))
    return tensors


def codebook_use(usage: Tensor) -> dict[str, float]:
    """Perplexity of the ids (1 to codebook size) and the share of entries in use, from counts (V,); V = 0: nothing."""
    if not len(usage):
        return {}
    share = sum_over_ranks(usage) / sum_over_ranks(usage).sum()
    perplexity = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    return {"perplexity": float(perplexity), "codes_used": float((share > 0).float().mean())}
