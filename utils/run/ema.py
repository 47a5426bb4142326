"""An exponential moving average of a model's trained parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter


class EMA:
    """Averages of parameters, updated in place and swapped into the model for evaluation and export."""

    def __init__(self, parameters: dict[str, Parameter], decay: float) -> None:
        """Start the averages at the parameters' values.

        Args:
            parameters: by name; kept by reference, on their device.
            decay: in [0, 1); weight of the old average after the warm-up.
        Raises:
            ValueError: for a decay outside that range.
        """
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"EMA decay is {decay}, expected a number in [0, 1)")
        self.decay = decay
        self.parameters = dict(parameters)
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the parameters, faster in the first steps.

        Args:
            step: optimizer steps done before this one; the decay is min(decay, (1 + step) / (10 + step)).
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        if self.values:
            torch._foreach_lerp_(list(self.values.values()), list(self.parameters.values()), 1.0 - decay)

    @torch.no_grad()
    def restart(self, name: str, rows: Tensor | None = None) -> None:
        """Set one average, or some of its rows, to its parameter's value, after this was replaced without training."""
        if name in self.values:
            rows = torch.ones(len(self.values[name]), dtype=torch.bool) if rows is None else rows
            self.values[name][rows] = self.parameters[name][rows]

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Use the averages as parameters inside a block, and restore the parameters after it."""
        live = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._write(self.values)
        try:
            yield
        finally:
            self._write(live)

    def state_dict(self) -> dict[str, Any]:
        """Return the decay and the averages, for a checkpoint."""
        return {"decay": self.decay, "values": dict(self.values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Args:
            state: result of `state_dict`.
        Raises:
            ValueError: if it holds averages of other parameters.
        """
        shapes = {name: tuple(value.shape) for name, value in self.values.items()}
        differing = shapes.items() ^ {(name, tuple(value.shape)) for name, value in state["values"].items()}
        if differing:
            names = sorted({name for name, _ in differing})
            raise ValueError(f"the EMA of the checkpoint and the trained parameters differ: {', '.join(names[:4])}")
        self.decay = state["decay"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
