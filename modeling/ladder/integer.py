"""The context model in integers, so that every machine computes the same probabilities.

Inputs, hidden values and quantized logits are whole numbers, carried in float32; weights are multiples of 2^-shift. All
products of a sum are then multiples of 2^-shift, and the shift is chosen so that the sum of their magnitudes stays
below 2^(24 - shift): float32 holds such sums exactly, in any order of addition. Both follow from the trained weights by
exact operations, so a checkpoint of the trained model defines them.

    input, hidden   a value of 1 is the integer UNIT; hidden values lie in [0, HIGHEST]
    logit           a value of 1 is the integer PER_UNIT; logits lie in [-LAST, LAST]

Axes: n images of a band, m positions, h and w of a band.

Source: Ballé et al., Integer networks for data compression with latent-variable models, 2019.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.ladder.context import (
    DYNAMIC_SIZE,
    ENERGIES,
    STATIC,
    STATIC_SIZE,
    TOP,
    Images,
    Positions,
    dilated,
    framed_logs,
    known_masks,
    neighbours,
    static_windows,
)
from modeling.ladder.network import UNIT, ContextModel, places, step_inputs
from utils.device import exact_float32
from utils.ladder.pyramid import PASSES
from utils.ladder.symbols import LAST, PER_UNIT

HIGHEST = 1023  # of a hidden value
EXACT = 1 << 24  # float32 holds all whole numbers up to this one
MOST_BITS = 14  # of the fraction of a weight
BIAS_BITS = 4  # of the fraction of a bias
CHUNK = 1 << 13  # positions at a time; their hidden values fit into a processor's cache


class Layer(NamedTuple):
    """A linear layer with exact sums.

    Args:
        weight: (out, in) multiples of 2^-shift, with one shift for each output.
        bias: (out,) multiples of 2^-BIAS_BITS.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the nearest whole numbers of the outputs."""
        return F.linear(x, self.weight, self.bias).add_(0.5).floor_()


def exact_layer(weight: Tensor, bias: Tensor, largest_input: int, more: Tensor | None = None) -> Layer:
    """Round the weights of a layer, with as many bits as its sums can hold.

    Args:
        weight: (out, in).
        bias: (out,).
        largest_input: magnitude of the inputs, which are whole numbers.
        more: (out,) largest magnitude of what is added to the sums later; None for nothing.

    Raises:
        ValueError: when the weights are too large.
    """
    weight, bias = weight.double(), _rounded(bias.double(), BIAS_BITS)
    added = bias.abs() + (0 if more is None else more.double()) + 1
    result = torch.full_like(weight, float("nan"))
    for bits in range(BIAS_BITS, MOST_BITS + 1):
        rounded = _rounded(weight, bits)
        fits = (rounded.abs().sum(1) * largest_input + added) * 2**bits < EXACT
        result[fits] = rounded[fits]
    if result.isnan().any():
        raise ValueError("the context model cannot be written in integers: its weights are too large; train it again")
    return Layer(result.float(), bias.float())


def _rounded(values: Tensor, bits: int) -> Tensor:
    return (values * 2**bits).round() / 2**bits


class IntegerContext:
    """The context model in integers.

    Args:
        model: the trained model; later changes of it have no effect.

    Raises:
        ValueError: when the weights are too large or not finite.
    """

    def __init__(self, model: ContextModel) -> None:
        state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
        if wrong := {str(value.dtype) for value in state.values()} - {"torch.float32"}:
            raise ValueError(f"the context model is {', '.join(wrong)}: a rate ladder stays in float32; load it again")
        if not all(value.isfinite().all() for value in state.values()):
            raise ValueError("the context model has weights that are not finite; train it again")
        device = model.out.weight.device
        place, energy = (_rounded(state[f"{name}.weight"].double() * UNIT, BIAS_BITS) for name in ("place", "energy"))
        step = _rounded(state["step.weight"].double() * UNIT, BIAS_BITS)
        most = place.abs().amax(0) + 3 * energy.abs().amax(0) + step.abs().sum(1) * 4
        first = torch.cat([state["static.weight"], state["dynamic.weight"]], 1)
        layers = [exact_layer(first, torch.zeros(len(first)), TOP, most)]
        for i in range(len(model.hidden)):
            weight, bias = state[f"hidden.{i}.weight"], state[f"hidden.{i}.bias"]
            layers.append(exact_layer(weight, bias * UNIT, HIGHEST))
        layers.append(exact_layer(state["out.weight"] * (PER_UNIT / UNIT), state["out.bias"] * PER_UNIT, HIGHEST))
        self.first, *self.hidden, self.out = (Layer(*(part.to(device) for part in layer)) for layer in layers)
        self.place, self.energy, self.step = (part.float().to(device) for part in (place, energy, step))
        self.frequencies = state["frequencies"].numpy().copy()
        self.device = device

    def bias(self, images: Images, step_index: int, energies: Tensor) -> Tensor:
        """As `ContextModel.bias`, a value of 1 is UNIT, (n, passes, width), multiples of 2^-BIAS_BITS."""
        inputs = step_inputs(step_index).double().to(self.device)
        step = _rounded((self.step.double() * inputs).sum(1), BIAS_BITS).float()
        classes = energies + torch.arange(3, device=self.device) * ENERGIES
        return self.place[places(images)] + (self.energy[classes].sum(1) + step)[:, None]

    def logits(self, static: Tensor, dynamic: Tensor, bias: Tensor) -> Tensor:
        """As `ContextModel.forward`, as whole numbers from -LAST to LAST, (m, DECISIONS) int16."""
        with torch.autocast(self.device.type, enabled=False):
            return self._logits(torch.cat([static, dynamic], 1), bias)

    def _logits(self, x: Tensor, bias: Tensor) -> Tensor:
        h = F.linear(x, self.first.weight).add_(bias).add_(0.5).floor_().clamp_(0, HIGHEST)
        for layer in self.hidden:
            h = layer(h).clamp_(min=0).add_(h).clamp_(max=HIGHEST)
        return self.out(h).clamp_(-LAST, LAST).short()

    @exact_float32()
    def real_logits(self, static: Tensor, dynamic: Tensor, bias: Tensor) -> Tensor:
        """As `logits`, in real units."""
        return self.logits(static, dynamic, bias).float() / PER_UNIT

    @exact_float32()
    def zero_logits(self, bias: Tensor) -> Tensor:
        """Return the logits where all inputs are 0, far from the border, (n, passes, DECISIONS) int16."""
        zeros = torch.zeros(len(PASSES), 2 * DYNAMIC_SIZE**2 + STATIC * STATIC_SIZE**2, device=self.device)
        x = torch.cat([zeros, TOP * known_masks(self.device)], 1).repeat(len(bias), 1)
        size = STATIC * STATIC_SIZE**2
        return self.logits(x[:, :size], x[:, size:], bias.flatten(0, 1)).unflatten(0, bias.shape[:2])

    @exact_float32()
    def of_pass(
        self, number: int, static: Tensor, active: Tensor, logs: Tensor, bias: Tensor, zero_logits: Tensor
    ) -> Tensor:
        """Logits of all positions of a pass; where all inputs are 0, they are those of `zero_logits`.

        Args:
            number: of the pass.
            static: (n, h, w, STATIC) with its frame.
            active: (n, h, w) bool, where an input from `static` is not 0.
            logs: (n, h, w) symbols of earlier passes as inputs, 0 elsewhere.
            bias: (n, passes, width).
            zero_logits: (n, passes, DECISIONS).

        Returns:
            (n, positions, DECISIONS) int16, row by row.
        """
        row, column = PASSES[number]
        border = DYNAMIC_SIZE // 2  # there the network sees that the band ends
        active = active | dilated(logs != 0, DYNAMIC_SIZE) if number else active.clone()
        active[:, :border], active[:, -border:], active[:, :, :border], active[:, :, -border:] = True, True, True, True
        active = active[:, row::2, column::2]
        result = zero_logits[:, number, None].repeat(1, active[0].numel(), 1)
        image, rows, columns = active.nonzero().unbind(1)
        flat = result.flatten(0, 1)
        place = image * active[0].numel() + rows * active.shape[2] + columns
        at = Positions(image, 2 * rows + row, 2 * columns + column)
        framed = framed_logs(logs)
        for start in range(0, len(image), CHUNK):
            part = Positions(*(index[start : start + CHUNK] for index in at))
            near = static_windows(static, part), neighbours(framed, part)
            flat[place[start : start + CHUNK]] = self.logits(*near, bias[part.image, number])
        return result
