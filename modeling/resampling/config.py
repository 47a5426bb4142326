"""Options of the layout `sequence`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from utils.config.ranges import Heads, Layers, Levels, Positive, Tokens, Width


@dataclass
class SequenceConfig:
    """Options of the layout `sequence`.

    Args:
        num_tokens: N, tokens of a whole cine.
        levels: levels of the finite scalar quantizer; 8 x 8 x 8 x 5 x 5 x 5 are 64000 ids, 16 bits.
        width: width of the resampler.
        num_layers: number of layers to compress, and again to expand.
        num_heads: number of attention heads.
        grid: default [D, T] of decoded cines.
        method: `attention`, trained; or `harmonic`, which scripts/fit_sequence.py fits and which has no other options
            than num_tokens and grid.
    """

    num_tokens: Tokens = 32
    levels: Levels = field(default_factory=lambda: [8, 8, 8, 5, 5, 5])
    width: Width = 256
    num_layers: Layers = 3
    num_heads: Heads = 8
    grid: list[Positive] | None = None
    method: str = "attention"

    def __post_init__(self) -> None:
        if self.method not in ("attention", "harmonic"):
            raise ValueError(f"method is {self.method!r}, expected attention or harmonic")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.grid is not None and len(self.grid) != 2:
            raise ValueError(f"grid is {self.grid}: expected [slices, phases]")

    def grid_for(self, grid: Sequence[int] | None) -> tuple[int, int]:
        """Return slices and phases of a decoded cine: the argument of the call, or the default of the config.

        Raises:
            ValueError: when both are missing, or a number is not positive.
        """
        chosen = self.grid if grid is None else grid
        if chosen is None:
            raise ValueError(
                "tokens of a whole cine do not contain their grid: give grid=(slices, phases), or model.sequence.grid"
            )
        if len(chosen) != 2 or min(chosen) < 1:
            raise ValueError(f"grid = {tuple(chosen)}: expected (slices, phases), both positive")
        return int(chosen[0]), int(chosen[1])
