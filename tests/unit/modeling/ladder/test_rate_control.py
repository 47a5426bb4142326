"""The step is found for a number of bytes or a PSNR, and the estimates behind it are right."""

import copy

import pytest
import torch

from data.bitstream import ladder as payload
from modeling.ladder.context import energies_of
from modeling.ladder.quantizer import STEPS, nearest_index, step_size
from modeling.ladder.rate import sampled_bits
from modeling.ladder.rate_control import mean_psnr
from modeling.ladder.search import searched_symbols
from modeling.ladder.tokens import Target
from modeling.titok import TiTok
from tests.ladders import as_input, as_tensors, random_symbols, smooth_cine, trained_ladder

STEP_AT = 4  # in a row of tokens


def cine(seed: int = 60, **size: int) -> torch.Tensor:
    return smooth_cine(**{"slices": 2, "phases": 6, "height": 48, "width": 64, **size}, seed=seed)


def psnr_of(model: TiTok, original: torch.Tensor, tokens: torch.Tensor) -> float:
    decoded = model.decode_tokens(tokens[None])[0, 0].permute(2, 3, 0, 1)
    return mean_psnr(original, decoded)


@pytest.mark.parametrize("goal", [24.0, 31.0, 36.0, 41.5])
@pytest.mark.parametrize("seed", [60, 61])
def test_the_psnr_is_at_least_the_goal_and_little_more(goal: float, seed: int) -> None:
    original = cine(seed, height=37, width=53)
    tokens = trained_ladder().encode(as_input(original), psnr=goal)[0]
    assert goal <= psnr_of(trained_ladder(), original, tokens) + 1e-4 < goal + 0.6


@pytest.mark.parametrize(("wanted", "least", "most"), [(60.0, 0.88, 1.04), (140.0, 0.94, 1.03), (400.0, 0.95, 1.02)])
@pytest.mark.parametrize("seed", [60, 61])
def test_the_payload_has_the_wanted_bytes_to_a_few_percent(wanted: float, least: float, most: float, seed: int) -> None:
    """Files of a few hundred bytes grow in leaps from one step to the next."""
    model, original = trained_ladder(), cine(seed)
    tokens = model.encode(as_input(original), bytes_per_frame=wanted)[0]
    data = payload.write(model.ladder.layout, tokens.numpy(), 6, model.ladder.coder())
    assert least * wanted < len(data) / 12 < most * wanted


def test_a_step_is_the_nearest_of_the_scale_and_two_members_of_a_batch_have_each_their_own() -> None:
    model, x = trained_ladder(), as_input(cine(height=16, width=20), cine(3, height=16, width=20) / 3)
    for step in (1e-9, 0.05, 0.3, 100.0):
        index = nearest_index(step)
        assert (model.encode(x, step=step)[:, :, STEP_AT] == index).all()
    found = model.encode(x, psnr=35.0)[:, :, STEP_AT]
    assert len(found[0].unique()) == len(found[1].unique()) == 1 and found[0, 0] != found[1, 0]


def test_more_bytes_give_a_finer_step_and_a_higher_psnr() -> None:
    model, original = trained_ladder(), cine()
    tokens = [model.encode(as_input(original), bytes_per_frame=n)[0] for n in (50.0, 100.0, 200.0)]
    steps, values = [int(t[0, STEP_AT]) for t in tokens], [psnr_of(model, original, t) for t in tokens]
    assert steps == sorted(steps, reverse=True) and values == sorted(values)
    assert steps[0] > steps[-1] and values[-1] > values[0] + 3


def test_more_bytes_than_the_finest_step_takes_give_the_finest_step() -> None:
    tokens = trained_ladder().encode(as_input(cine(height=9, width=8)), bytes_per_frame=1e9)
    assert (tokens[:, :, STEP_AT] == 0).all()


def test_too_few_bytes_and_a_psnr_out_of_reach_are_refused() -> None:
    x = as_input(cine(height=16, width=20))
    with pytest.raises(ValueError, match=r"^1 bytes a frame are too few: the tokens of this cine take about [\d.]+ at"):
        trained_ladder().encode(x, bytes_per_frame=1.0)
    with pytest.raises(ValueError, match=r"101 dB cannot be reached: the finest step gives \d+\.\d\d dB"):
        trained_ladder().encode(x, psnr=101.0)


def test_a_low_goal_takes_a_coarse_step_and_no_more() -> None:
    tokens = trained_ladder().encode(as_input(cine(height=16, width=20)), psnr=0.1)
    assert 300 < int(tokens[0, 0, STEP_AT]) < STEPS


@pytest.mark.parametrize(
    "given", [{}, {"psnr": 30.0, "step": 0.1}, {"bytes_per_frame": 9.0, "psnr": 30.0, "step": 0.1}]
)
def test_exactly_one_target_is_given(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give exactly one of bytes_per_frame, psnr and step"):
        Target(**given)


@pytest.mark.parametrize("name", ["bytes_per_frame", "psnr", "step"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_is_a_number_above_0(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*: expected a number above 0"):
        Target(**{name: value})


@pytest.mark.parametrize(("per_band", "share"), [(60, 0.05), (400, 0.02)])
def test_a_sample_of_positions_estimates_the_bits_without_bias(per_band: int, share: float) -> None:
    """Of 60 positions, the finest bands take part with one of their images only."""
    model, symbols = trained_ladder().ladder.context, as_tensors(random_symbols((37, 53), 2, 2, seed=1, spread=4.0))
    energies = energies_of(symbols)
    exact = float(sampled_bits(model, symbols, 200, energies, 10**9, 0))
    estimates = torch.tensor([float(sampled_bits(model, symbols, 200, energies, per_band, n)) for n in range(60)])
    spread = float(estimates.std() / len(estimates) ** 0.5)
    assert 0 < spread < share * exact and abs(float(estimates.mean()) - exact) < 4 * spread


def test_the_estimate_is_a_function_of_its_seed() -> None:
    model, symbols = trained_ladder().ladder.context, as_tensors(random_symbols((19, 26), seed=2))
    first, again, other = (float(sampled_bits(model, symbols, 200, energies_of(symbols), 50, s)) for s in (1, 1, 2))
    assert first == again != other


def test_nothing_to_code_takes_no_bits_and_has_gradients() -> None:
    symbols = [[torch.zeros_like(band) for band in level] for level in as_tensors(random_symbols((19, 26)))]
    model = TiTok(trained_ladder().config).ladder.context
    bits = sampled_bits(model, symbols, 200, energies_of(symbols), 50, 0)
    bits.backward()
    assert bits == 0


def test_the_psnr_is_the_mean_over_frames_of_at_most_100_db_each() -> None:
    original = torch.full((1, 2, 4, 4), 0.5)
    decoded = original.clone()
    assert mean_psnr(original, decoded) == 100
    decoded[0, 0] += 0.1
    assert mean_psnr(original, decoded) == pytest.approx((20 + 100) / 2, abs=1e-3)


def test_symbols_of_a_finer_step_are_no_smaller() -> None:
    ladder = trained_ladder().ladder
    analysis, sums = ladder.analyse(cine()), []
    for index in (120, 200, 280):
        symbols = searched_symbols(ladder.coder().context, analysis.pyramid, index)
        sums.append(sum(int(band.abs().sum()) for level in symbols for band in level))
    assert sums[0] > 2 * sums[1] > 4 * sums[2] and step_size(120) < step_size(280)


def test_the_psnr_of_a_goal_is_that_of_the_components_that_a_file_holds() -> None:
    model, still = copy.deepcopy(trained_ladder()), cine(phases=1).expand(-1, 6, -1, -1)
    with torch.no_grad():
        model.ladder.refinement.tail.bias.fill_(3.0)  # it changes every component, also one without symbols
    tokens = model.encode(as_input(still), psnr=20.0)[0]
    assert psnr_of(model, still, tokens) >= 20.0 - 1e-4
