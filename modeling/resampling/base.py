"""The interface of resamplers: a whole cine to N tokens, and back to the context of each frame.

Axes: B batch, D slices, T phases of the cycle, K tokens a frame, N tokens of a whole cine, V numbers of a token.
"""

from typing import ClassVar

from torch import Tensor, nn

from utils.layout import NOT_TRANSMITTED


class Resampler(nn.Module):
    """A resampler of the layout `sequence`.

    Args:
        num_tokens: N.
        codebook_size: number of ids of a token.
    """

    reads: ClassVar[str]  # its input: `latents` before projection, or `codes`, the codebook vectors of the frame tokens

    def __init__(self, num_tokens: int, codebook_size: int) -> None:
        super().__init__()
        self.num_tokens, self.codebook_size = num_tokens, codebook_size

    def compress(
        self,
        latents: Tensor,  # (B, D, T, K, E) of the frames, see `reads`
        position: Tensor,  # (B, D) in (0, 1)
        phase: Tensor,  # (B, T) in cycles
        valid: Tensor | None = None,  # (B, D, T) bool, False for padded frames; None for no padding
        anatomy: Tensor | None = None,  # (B, D, M, anatomy_width)
    ) -> tuple[Tensor, Tensor]:
        """Quantized values (B, N, V) and ids (B, N) of whole cines."""
        raise NotImplementedError

    def lookup(self, ids: Tensor) -> Tensor:  # (B, N), without -1
        """Return the quantized values of ids, (B, N, V)."""
        raise NotImplementedError

    def expand(self, values: Tensor, transmitted: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """Expand tokens of whole cines to the context of each frame.

        Args:
            values: (B, N, V) quantized.
            transmitted: (B, N) bool; other tokens are not used.
            position: (B, D) positions of slices in (0, 1).
            phase: (B, T) in cycles.

        Returns:
            (B, D, T, K, token_size).
        """
        raise NotImplementedError

    def context(self, ids: Tensor, position: Tensor, phase: Tensor) -> Tensor:
        """Expand ids (B, N), -1 if not transmitted, see `expand`."""
        return self.expand(self.lookup(ids.clamp(min=0)), ids != NOT_TRANSMITTED, position, phase)
