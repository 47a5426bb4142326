"""The context model in integers is exact: no order of sums, no thread and no machine changes a logit."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling.ladder import integer
from modeling.ladder.context import (
    DYNAMIC,
    DYNAMIC_SIZE,
    ENERGIES,
    STATIC,
    STATIC_SIZE,
    TOP,
    BandId,
    Images,
    Known,
    Positions,
    energies_of,
    energy_inputs,
    framed_logs,
    framed_static,
    images_of,
    neighbours,
    static_windows,
)
from modeling.ladder.integer import BIAS_BITS, EXACT, HIGHEST, MOST_BITS, IntegerContext, exact_layer
from modeling.ladder.network import ContextModel, symbol_bits
from modeling.ladder.rate import sampled_bits
from modeling.ladder.search import searched_symbols
from modeling.ladder.session import Session
from tests.ladders import as_tensors, fixed_ladder, random_symbols, smooth_cine, trained_ladder
from utils.ladder.pyramid import PASSES, band_ids
from utils.ladder.symbols import DECISIONS, LAST, PER_UNIT, PRECISION

FROM_STATIC, FROM_DYNAMIC = STATIC * STATIC_SIZE**2, DYNAMIC * DYNAMIC_SIZE**2
MODELS = ("fixed", "trained", "large")


def model_of(name: str) -> ContextModel:
    """A context model; the weights of the large one are near the limit of what integers can hold."""
    if name == "trained":
        return trained_ladder().ladder.context
    model = copy.deepcopy(fixed_ladder().ladder.context)
    if name == "large":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= 8
    return model


def whole(values: Tensor, bits: int) -> np.ndarray:
    """Values times 2^bits, which must be whole numbers."""
    scaled = values.double().numpy() * 2.0**bits
    assert np.array_equal(scaled, np.rint(scaled))
    return scaled.astype(np.int64)


def int64_logits(context: IntegerContext, x: Tensor, bias: Tensor) -> np.ndarray:
    """The network in integers of numpy, with one scale for all weights."""

    def sums(weight: Tensor, inputs: np.ndarray, added: np.ndarray) -> np.ndarray:
        return (inputs @ whole(weight, MOST_BITS).T + added + (1 << (MOST_BITS - 1))) >> MOST_BITS  # nearest

    h = sums(context.first.weight, whole(x, 0), whole(bias, MOST_BITS)).clip(0, HIGHEST)
    for layer in context.hidden:
        h = (h + sums(layer.weight, h, whole(layer.bias, MOST_BITS)).clip(0)).clip(None, HIGHEST)
    return sums(context.out.weight, h, whole(context.out.bias, MOST_BITS)).clip(-LAST, LAST)


def some_bias(context: IntegerContext, count: int) -> Tensor:
    """Bias of the first layer at random places and steps, the ends of the scale of steps among them."""
    rows = []
    for seed, step_index in enumerate((0, 447, 214, 60)):
        random = torch.Generator().manual_seed(seed)
        components = torch.randint(0, 40, (count,), generator=random)
        energies = torch.randint(0, ENERGIES, (count, 3), generator=random)
        images = Images(BandId(seed, seed % 3 if seed else 0), components, components)
        passes = torch.randint(0, len(PASSES), (count,), generator=random)
        rows.append(context.bias(images, step_index, energies)[torch.arange(count), passes])
    return torch.cat(rows)


def extreme_inputs(context: IntegerContext, count: int) -> Tensor:
    """Random inputs, only largest ones, and those that drive each channel to its ends."""
    random = torch.Generator().manual_seed(0)
    size = FROM_STATIC + FROM_DYNAMIC
    small = torch.randint(-20, 21, (count, size), generator=random)
    large = TOP * (2 * torch.randint(0, 2, (count, size), generator=random) - 1)
    signs = context.first.weight.sign()
    worst = TOP * torch.cat([signs, -signs, torch.ones_like(signs), -torch.ones_like(signs)])[:count]
    rest = torch.zeros(4 * count - 2 * count - len(worst), size)
    return torch.cat([small, large, worst, rest]).float()


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_the_same_network_in_64_bit_integers(name: str) -> None:
    context, count = IntegerContext(model_of(name)), 48
    x, bias = extreme_inputs(context, count), some_bias(context, count)
    logits = context.logits(x[:, :FROM_STATIC], x[:, FROM_STATIC:], bias)
    assert logits.dtype == torch.int16 and logits.shape == (len(x), DECISIONS)
    np.testing.assert_array_equal(logits.numpy(), int64_logits(context, x, bias))
    assert len(logits.unique()) > 10


@pytest.mark.parametrize("name", MODELS)
def test_no_sum_of_magnitudes_exceeds_what_float32_holds_exactly(name: str) -> None:
    context = IntegerContext(model_of(name))
    largest_bias = context.place.abs().amax(0) + 3 * context.energy.abs().amax(0) + 4 * context.step.abs().sum(1)
    layers = [(context.first, TOP, largest_bias), *((layer, HIGHEST, layer.bias.abs()) for layer in context.hidden)]
    for layer, largest, bias in [*layers, (context.out, HIGHEST, context.out.bias.abs())]:
        for row, added in zip(layer.weight.double(), bias.double(), strict=True):
            bits = max(BIAS_BITS, min(b for b in range(MOST_BITS + 1) if torch.equal((row * 2**b).frac(), 0 * row)))
            assert (row.abs().sum() * largest + added + 1) * 2**bits < EXACT


def test_an_output_has_as_many_bits_as_its_sum_can_hold() -> None:
    weight = torch.tensor([[0.3, 0.2], [30.0, 20.0], [3000.0, 2000.3]])
    layer = exact_layer(weight, torch.zeros(3), 127)
    errors = (layer.weight - weight).abs().amax(1)
    assert errors[0] <= 2.0**-15 and errors[1] <= 2.0**-11 and errors[2] <= 2.0**-5
    assert errors[2] > 2.0**-10  # fewer bits than the others, as its sums are larger


def test_the_order_of_a_sum_does_not_matter() -> None:
    context = IntegerContext(model_of("large"))
    x, bias = extreme_inputs(context, 40), some_bias(context, 40)
    expected = F.linear(x, context.first.weight) + bias
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(1))
    total = bias.clone()
    for column in order.tolist():
        total += x[:, column, None] * context.first.weight[:, column]
    assert torch.equal(total, expected)


def full_logits(context: IntegerContext, symbols: list[list[Tensor]], step_index: int, place: tuple) -> Tensor:
    """Logits at all positions of a site, each computed by the network."""
    component, band, number = place
    known, energies = Known.of(symbols), energies_of(symbols)
    images = images_of(band, len(symbols[0][0]), torch.tensor([component]))
    row, column = PASSES[number]
    chosen = torch.zeros(known.band(images).shape)
    chosen[:, row::2, column::2] = 1
    at = Positions(*chosen.nonzero().unbind(1))
    inputs = energy_inputs(energies)[band_ids(len(symbols) - 1).index(band), component]
    bias = context.bias(images, step_index, inputs.expand(len(images.slices), 3))
    static, logs = framed_static(known.static(images)), framed_logs(known.band(images))
    logits = context.logits(static_windows(static, at), neighbours(logs, at), bias[at.image, number])
    return logits.view(len(images.slices), -1, DECISIONS)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 13])
@pytest.mark.parametrize("size", [(5, 4), (19, 26)])
def test_the_shortcut_for_quiet_positions_gives_what_the_network_gives(
    size: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer, "CHUNK", chunk)
    symbols = random_symbols(size, 2, 2, seed=3, spread=2.0)
    for level in symbols[1:]:
        for band in level:
            band[np.random.RandomState(4).rand(*band.shape) < 0.97] = 0
    tensors = as_tensors(symbols)
    context = IntegerContext(model_of("fixed"))
    walk, sites = Session(context, size, 2, 200, energies_of(tensors).numpy()), 0
    for site in walk.sites():
        logits = walk.logits(site)
        np.testing.assert_array_equal(logits, full_logits(context, tensors, 200, site).numpy())
        walk.add(site, walk.take(site, symbols))
        sites += 1
    assert sites >= 8


@pytest.mark.parametrize("step_index", [130, 200, 260])
def test_integers_cost_at_most_one_percent_more_bits_or_less(step_index: int) -> None:
    """Bits of searched symbols of a cine that the model was not trained on."""
    ladder = trained_ladder().ladder
    context = ladder.coder().context
    analysis = ladder.analyse(smooth_cine(2, 5, 37, 53, seed=777))
    symbols = searched_symbols(context, analysis.pyramid, step_index)
    energies, known, exact = energies_of(symbols), Known.of(symbols), 0.0
    expected = float(sampled_bits(ladder.context, symbols, step_index, energies, 10**9, 0))
    for row, band in enumerate(band_ids(len(symbols) - 1)):
        plane = symbols[band.level][band.orientation]
        for component in energies[row].nonzero()[:, 0].tolist():
            images = images_of(band, len(plane), torch.tensor([component]))
            at = Positions(*torch.ones_like(plane[:, component]).nonzero().unbind(1))
            bias = context.bias(images, step_index, energy_inputs(energies)[row][images.components])
            near = (
                static_windows(framed_static(known.static(images)), at),
                neighbours(framed_logs(known.band(images)), at),
            )
            logits = context.real_logits(*near, bias[at.image, at.passes()])
            exact += float(symbol_bits(logits, plane[:, component].flatten()).sum())
    assert expected > 500 and exact == pytest.approx(expected, rel=0.01)


def test_training_has_made_the_symbols_cheaper() -> None:
    """Else the law above would say nothing of a model that predicts."""
    cine, bits = smooth_cine(seed=778), []
    for model in (fixed_ladder(), trained_ladder()):
        analysis = model.ladder.analyse(cine)
        symbols = searched_symbols(model.ladder.coder().context, analysis.pyramid, 214)
        energies = energies_of(symbols)
        bits.append(float(sampled_bits(model.ladder.context, symbols, 214, energies, 10**9, 0)))
    assert bits[1] < 0.8 * bits[0]


def test_too_large_weights_are_refused() -> None:
    for name in ("static.weight", "dynamic.weight", "hidden.0.weight", "out.weight", "place.weight"):
        model = copy.deepcopy(model_of("fixed"))
        with torch.no_grad():
            model.get_parameter(name).fill_(1e5)
        with pytest.raises(ValueError, match="its weights are too large; train it again"):
            IntegerContext(model)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    model = copy.deepcopy(model_of("fixed"))
    with torch.no_grad():
        model.hidden[0].bias[0] = value
    with pytest.raises(ValueError, match="not finite"):
        IntegerContext(model)


def test_later_changes_of_the_model_have_no_effect() -> None:
    model = copy.deepcopy(model_of("fixed"))
    context = IntegerContext(model)
    x, bias = extreme_inputs(context, 10), some_bias(context, 10)
    before = context.logits(x[:, :FROM_STATIC], x[:, FROM_STATIC:], bias)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert torch.equal(context.logits(x[:, :FROM_STATIC], x[:, FROM_STATIC:], bias), before)
    assert context.frequencies.all()


def test_the_probabilities_are_whole_numbers_that_rise_and_are_never_0_or_1() -> None:
    frequencies = IntegerContext(model_of("fixed")).frequencies
    assert frequencies.shape == (2 * LAST + 1,) and np.array_equal(frequencies, np.rint(frequencies))
    assert (np.diff(frequencies) >= 0).all() and frequencies[0] >= 1 and frequencies[-1] < 1 << PRECISION
    assert frequencies[LAST] == 1 << (PRECISION - 1)
    np.testing.assert_array_equal(frequencies + frequencies[::-1], 1 << PRECISION)
    expected = 1 / (1 + np.exp(-np.arange(-LAST, LAST + 1) / PER_UNIT))
    assert np.abs(frequencies / (1 << PRECISION) - expected).max() < 2.0**-PRECISION


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="older torch names it otherwise")
def test_products_are_exact_although_the_user_allows_rough_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 and bf16 drop bits of the weights; on some machines torch.set_float32_matmul_precision allows them."""
    seen, linear, backends = [], F.linear, torch.backends

    def watched(*given: Tensor) -> Tensor:
        seen.append((backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision))
        return linear(*given)

    context = IntegerContext(model_of("fixed"))
    x, bias = extreme_inputs(context, 4), some_bias(context, 4)
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(F, "linear", watched)
    try:
        torch.set_float32_matmul_precision("medium")
        context.real_logits(x[:, :FROM_STATIC], x[:, FROM_STATIC:], bias)  # of the search
        walk = Session(context, (9, 9), 1, 200, np.full((4, 1), 9))  # of a file
        walk.logits(next(walk.sites()))
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) == 3 * (2 + len(context.hidden)) and set(seen) == {("ieee", "ieee")}
