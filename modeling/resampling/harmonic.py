"""Harmonic resampler: a linear transform of the frames' codebook vectors in closed form, without trained weights.

    codes (D, T, K, token_size) ─► waves along slices and cycle ─► principal components ─► levels ─► ids (N,)
    ids (N,) ─► coefficients ─► components ─► waves at any slice and phase ─► context (D, T, K, token_size)

A token is a mixed-radix number of several coefficients, each with its own number of levels. A token that is not
transmitted stands for coefficients of zero. scripts/fit_sequence.py fits the buffers to a train split.

Source: Huang and Schultheiss, Block quantization of correlated Gaussian random variables, 1963.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.resampling.base import Resampler
from modeling.resampling.waves import PHASES, SLICES, from_waves, to_waves

TOKEN_BITS = 16  # of an id; also the most coefficients of a token, since each has two levels or more
LEVELS = 64  # of a coefficient, at most


class HarmonicResampler(Resampler):
    """The codes of all frames of a cine to N tokens, and back to a context for each frame.

    The buffers are floating point, as all weights of a file. They keep their precision if the model changes its own.

    Args:
        frame_tokens: K, tokens a frame.
        token_size: channels of a codebook vector.
        on_sphere: whether the context has unit length, like codebook entries with `use_l2_norm`.
        num_tokens: N.
    """

    reads = "codes"
    mean: Tensor  # (SLICES, PHASES, K * token_size) of the train split, in principal components
    basis: Tensor  # (K * token_size, K * token_size), a principal component a column
    index: Tensor  # (N, 16) which coefficient of mean.flatten() a place of a token holds
    levels: Tensor  # (N, 16) number of levels; 1 for a place that is not used
    points: Tensor  # (N, 16, LEVELS) values of the levels, increasing; zeros follow

    def __init__(self, frame_tokens: int, token_size: int, on_sphere: bool, num_tokens: int) -> None:
        super().__init__(num_tokens, 2**TOKEN_BITS)
        self.frame_tokens, self.on_sphere = frame_tokens, on_sphere
        channels = frame_tokens * token_size
        self.register_buffer("mean", torch.zeros(SLICES, PHASES, channels))
        self.register_buffer("basis", torch.eye(channels))
        self.register_buffer("index", torch.zeros(num_tokens, TOKEN_BITS))
        self.register_buffer("levels", torch.ones(num_tokens, TOKEN_BITS))
        self.register_buffer("points", torch.zeros(num_tokens, TOKEN_BITS, LEVELS))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "HarmonicResampler":
        """Move the buffers without a change of their type: bf16 cannot hold the numbers of `index`."""

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)
        return self

    def compress(
        self,
        latents: Tensor,  # (B, D, T, K, token_size) codes
        position: Tensor,  # (B, D) in (0, 1)
        phase: Tensor,  # (B, T) in cycles
        valid: Tensor | None = None,  # (B, D, T) bool, False for padded frames; None for no padding
        anatomy: Tensor | None = None,  # not used
    ) -> tuple[Tensor, Tensor]:
        """Quantized values (B, N, 16) and ids (B, N) of whole cines.

        Each cine is computed alone in float64, so its ids do not depend on the batch.

        Raises:
            ValueError: if the resampler was not fitted.
        """
        if int(self.levels.max()) < 2:
            raise ValueError("the harmonic resampler is not fitted: fit it with scripts/fit_sequence.py")
        ids = []
        for number, codes in enumerate(latents.detach()):
            places, moments = position[number], phase[number]
            if valid is not None:
                slices, phases = valid[number].any(1), valid[number].any(0)
                codes, places, moments = codes[slices][:, phases], places[slices], moments[phases]
            ids.append(self._ids(self.waves(codes, places, moments)))
        stacked = torch.stack(ids)
        return self.lookup(stacked), stacked

    def waves(self, codes: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """Coefficients of the waves of one cine, before the principal components.

        Args:
            codes: (D, T, K, token_size) codebook vectors.
            position: (D,) positions of slices in (0, 1), increasing.
            phase: (T,) in cycles.

        Returns:
            (SLICES, PHASES, K * token_size) float64.
        """
        return to_waves(codes.flatten(2).double(), position, phase)

    def _ids(self, waves: Tensor) -> Tensor:
        """Ids (N,) of the waves of one cine."""
        coefficients = (waves @ self.basis.double() - self.mean.double()).flatten()[self.index.long()]
        distance = (coefficients[..., None] - self.points.double()).abs()
        unused = torch.arange(LEVELS, device=distance.device) >= self.levels[..., None]
        return (distance.masked_fill(unused, torch.inf).argmin(-1) * self._radix()).sum(-1)

    def _radix(self) -> Tensor:
        """What one level of each coefficient adds to the id, (N, 16)."""
        levels = self.levels.long()
        return levels.cumprod(-1) // levels

    def lookup(self, ids: Tensor) -> Tensor:  # (B, N), without -1
        """Return the coefficients of ids, (B, N, 16); 0 for places that are not used."""
        level = ids[..., None] // self._radix() % self.levels.long()
        return self.points.expand(*ids.shape, -1, -1).gather(-1, level[..., None]).squeeze(-1)

    def expand(self, values: Tensor, transmitted: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """Expand tokens of whole cines to the context of each frame, see `Resampler.expand`."""
        values = (values.float() * transmitted[..., None]).flatten(1)
        empty = values.new_zeros(len(values), self.mean.numel())
        coefficients = empty.index_add(1, self.index.long().flatten(), values).unflatten(1, self.mean.shape)
        context = from_waves(coefficients + self.mean, position, phase) @ self.basis.T
        context = context.unflatten(-1, (self.frame_tokens, -1))
        return F.normalize(context, dim=-1) if self.on_sphere else context
