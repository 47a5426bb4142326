"""Laws of the harmonic resampler: a transform that can be inverted, tokens of 16 bits, prefixes, any grid."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling.draws import no_draws
from modeling.resampling.fitting import allocate, fit, normal_points, quantizers
from modeling.resampling.harmonic import LEVELS, TOKEN_BITS, HarmonicResampler
from modeling.resampling.waves import PHASES, SLICES, from_waves, to_waves
from modeling.titok import TiTok
from tests.tiny import tiny_config, tiny_model
from tests.unit.modeling.losses.test_where_gradients_go import hearts


def places(slices: int, phases: int) -> tuple[Tensor, Tensor]:
    """Positions (1, D) and phases (1, T) of a cine."""
    numbers = torch.arange(max(slices, phases), dtype=torch.float64)
    return ((numbers[:slices] + 0.5) / slices)[None], (numbers[:phases] / phases)[None]


def cines(count: int = 12, slices: int = 8, phases: int = 20) -> Tensor:
    """Smooth codes of unit length, (P, D, T, 3, 4): a base, and a strong and some weak movements a cine."""
    rng = np.random.default_rng(0)
    base, moves = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
    weights = rng.normal(size=(count, 5)) * np.array([1.0, 0.5, 0.3, 0.2, 0.1])
    time = np.cos(2 * np.pi * (np.arange(phases) / phases + np.arange(slices)[:, None] / 40))
    codes = base + np.einsum("pm,dt,mkc->pdtkc", weights, time, moves)
    return torch.from_numpy(codes / np.linalg.norm(codes, axis=-1, keepdims=True)).float()


def fitted(codes: Tensor, num_tokens: int = 4, on_sphere: bool = False) -> HarmonicResampler:
    resampler = HarmonicResampler(3, 4, on_sphere, num_tokens)
    position, phase = places(*codes.shape[1:3])
    fit(resampler, torch.stack([resampler.waves(cine, position[0], phase[0]) for cine in codes]))
    return resampler


def error(resampler: HarmonicResampler, codes: Tensor, keep: int) -> float:
    """Mean squared error of the context from the first tokens."""
    position, phase = (axis.expand(len(codes), -1) for axis in places(*codes.shape[1:3]))
    ids = resampler.compress(codes, position, phase)[1]
    ids[:, keep:] = -1
    return float((resampler.context(ids, position, phase) - codes).square().mean())


def fitted_model() -> TiTok:
    """A tiny model of layout `sequence` that is fitted to random cines."""
    config = tiny_config("titok", layout="sequence")
    config.sequence.method, config.sequence.num_tokens = "harmonic", 3
    torch.manual_seed(0)
    model = TiTok(config).eval()
    torch.nn.init.normal_(model.tokenizer.quantize.embedding.weight)
    x = torch.rand(5, 3, 4, 1, 32, 32)
    position, phase = places(3, 4)
    with torch.inference_mode():
        codes = model.encoder.frame_codes(model.encoder.frame_latents(x, phase.float().expand(5, -1)))
    fit(model.resampler, torch.stack([model.resampler.waves(cine, position[0], phase[0]) for cine in codes]))
    return model


def test_the_waves_of_a_grid_are_orthonormal_and_give_the_grid_back() -> None:
    position, phase = places(SLICES, PHASES)
    values = torch.randn(SLICES, PHASES, 5, dtype=torch.float64)
    waves = to_waves(values, position[0], phase[0])
    torch.testing.assert_close(waves.square().sum(), values.square().sum())
    torch.testing.assert_close(from_waves(waves[None], position, phase)[0], values)


@pytest.mark.parametrize(("slices", "phases"), [(1, 1), (2, 3), (13, 31)])
def test_a_constant_cine_of_any_grid_stays_constant(slices: int, phases: int) -> None:
    position, phase = places(slices, phases)
    waves = to_waves(torch.full((slices, phases, 1), 2.0, dtype=torch.float64), position[0], phase[0])
    torch.testing.assert_close(
        from_waves(waves[None], position, phase), torch.full((1, slices, phases, 1), 2.0).double()
    )


def test_phases_in_another_order_give_the_same_waves() -> None:
    position, phase = places(4, 7)
    values, order = torch.randn(4, 7, 2, dtype=torch.float64), torch.randperm(7)
    first, second = to_waves(values, position[0], phase[0]), to_waves(values[:, order], position[0], phase[0, order])
    torch.testing.assert_close(first, second)


def test_the_points_are_those_of_the_best_quantizer_of_a_normal_variable() -> None:
    np.testing.assert_allclose(normal_points(2), [-0.7979, 0.7979], atol=1e-4)  # Max, 1960, table I
    np.testing.assert_allclose(normal_points(4), [-1.510, -0.4528, 0.4528, 1.510], atol=1e-3)


def test_no_quantizer_is_worse_than_zero_even_for_rare_large_values() -> None:
    values = np.zeros((100, 2))
    values[:2, 0], values[:, 1] = (8, -8), np.linspace(-1, 1, 100)
    errors, points = quantizers(values)
    assert errors.shape == (2, LEVELS) and (errors <= errors[:, :1] + 1e-12).all()
    assert [part.shape for part in points[:3]] == [(2, 1), (2, 2), (2, 3)]


@pytest.mark.parametrize("num_tokens", [1, 3])
def test_the_levels_of_a_token_fit_its_bits_and_the_first_coefficients_get_the_most(num_tokens: int) -> None:
    errors = 0.9 ** np.arange(40)[:, None] / np.arange(1, LEVELS + 1) ** 2
    tokens = allocate(errors, num_tokens)
    products = [np.prod([levels for _, levels in members]) for members in tokens]
    assert len(tokens) == num_tokens and max(products) <= 2**TOKEN_BITS and min(products) > 2 ** (TOKEN_BITS - 1)
    numbers = [number for members in tokens for number, _ in members]
    assert len(set(numbers)) == len(numbers) and max(len(members) for members in tokens) <= TOKEN_BITS
    levels = dict(member for members in tokens for member in members)
    assert 0 in dict(tokens[0]) and levels[0] == max(levels.values())


def test_more_tokens_are_never_worse_on_the_train_cines_and_the_first_removes_the_most() -> None:
    codes = cines()
    resampler = fitted(codes)
    errors = [error(resampler, codes, keep) for keep in range(5)]
    gains = [before - after for before, after in pairwise(errors)]
    assert min(gains) > -1e-9 and gains[0] == max(gains) and errors[1] < errors[0] / 2
    assert error(fitted(codes, 8), codes, 8) <= errors[4] <= error(fitted(codes, 2), codes, 2)


def test_ids_are_in_range_and_those_of_a_cine_alone() -> None:
    codes = cines(count=6, slices=5, phases=9)
    resampler, (position, phase) = fitted(codes), places(5, 9)
    values, ids = resampler.compress(codes, position.expand(6, -1), phase.expand(6, -1))
    assert ids.shape == (6, 4) and int(ids.min()) >= 0 and int(ids.max()) < resampler.codebook_size == 65536
    alone = torch.cat([resampler.compress(codes[n : n + 1], position, phase)[1] for n in range(6)])
    assert torch.equal(ids, alone) and torch.equal(values, resampler.lookup(ids))


def test_padding_changes_no_id() -> None:
    codes = cines(count=4, slices=3, phases=5)
    resampler, (position, phase) = fitted(codes), places(3, 5)
    ids = resampler.compress(codes[:1], position, phase)[1]
    padded, valid = torch.randn(1, 5, 6, 3, 4), torch.zeros(1, 5, 6, dtype=torch.bool)
    padded[:, :3, :5], valid[:, :3, :5] = codes[0], True
    places_in = torch.cat([position, torch.full((1, 2), 0.5)], 1), torch.cat([phase, torch.tensor([[0.1]])], 1)
    assert torch.equal(resampler.compress(padded, *places_in, valid)[1], ids)


def test_a_token_that_is_not_transmitted_is_the_mean_of_the_train_cines() -> None:
    codes = cines()
    resampler, (position, phase) = fitted(codes), places(8, 20)
    none = resampler.context(torch.full((1, 4), -1), position, phase)[0]
    torch.testing.assert_close(none, codes.mean(0), atol=1e-4, rtol=0)
    on_sphere = fitted(codes, on_sphere=True).context(torch.full((1, 4), -1), position, phase)
    torch.testing.assert_close(on_sphere.norm(dim=-1), torch.ones(1, 8, 20, 3))


def test_another_precision_of_the_model_changes_no_buffer() -> None:
    resampler = fitted(cines())
    before = {name: buffer.clone() for name, buffer in resampler.named_buffers()}
    for name, buffer in resampler.to(torch.bfloat16).named_buffers():
        assert torch.equal(buffer, before[name]), name
    model = fitted_model().to(torch.bfloat16)
    decoded = model.decode_tokens(model.encode(torch.rand(1, 1, 32, 32, 2, 3)), grid=(2, 3))
    assert decoded.dtype == torch.bfloat16 and decoded.isfinite().all()


@pytest.mark.parametrize(("slices", "phases"), [(1, 1), (3, 4), (2, 7)])
def test_a_cine_of_any_grid_becomes_tokens_and_comes_back(slices: int, phases: int) -> None:
    model, x = fitted_model(), torch.rand(2, 1, 32, 32, slices, phases)
    tokens = model.encode(x)
    assert tokens.shape == (2, 3) and tokens.dtype == torch.long and model.layout.codebook_size == 65536
    assert model.decode_tokens(tokens, grid=(5, 3)).shape == (2, 1, 32, 32, 5, 3)
    part = model.encode(x, keep_tokens=1)
    assert torch.equal(part[:, :1], tokens[:, :1]) and (part[:, 1:] == -1).all()
    assert model.decode_tokens(part, grid=(slices, phases)).shape == x.shape


def test_training_sees_the_context_of_the_tokens() -> None:
    model, x = fitted_model(), torch.rand(2, 1, 32, 32, 2, 4)
    batch = hearts()._replace(image=x.permute(0, 4, 5, 1, 2, 3), has_key_frames=False)
    with torch.no_grad():
        trained = model(batch, no_draws(batch)).reconstruction.permute(0, 3, 4, 5, 1, 2)
    decoded = model.decode_tokens(model.encode(x), grid=(2, 4))
    torch.testing.assert_close(trained.clamp(0, 1), decoded, atol=1e-4, rtol=0)


def test_a_saved_model_gives_equal_tokens_and_pixels(tmp_path: Path) -> None:
    model, x = fitted_model(), torch.rand(1, 1, 32, 32, 2, 3)
    model.save_pretrained(tmp_path)
    again = TiTok.from_pretrained(tmp_path)
    tokens = again.encode(x)
    assert torch.equal(tokens, model.encode(x)) and again.identity() == model.identity()
    assert torch.equal(again.decode_tokens(tokens, grid=(2, 3)), model.decode_tokens(tokens, grid=(2, 3)))
    assert not list(again.resampler.parameters())


def test_what_cannot_work_is_refused() -> None:
    config = tiny_config("titok", layout="sequence")
    config.sequence.method = "harmonic"
    with pytest.raises(ValueError, match="is not fitted"):
        TiTok(config).eval().encode(torch.rand(1, 1, 32, 32, 2, 3))
    with pytest.raises(ValueError, match="hold no anatomy"):
        type(config)(layout="sequence", sequence=config.sequence, conditioning={"name": "resnet18"})
    with pytest.raises(ValueError, match="expected attention or harmonic"):
        type(config.sequence)(method="wavelet")


def test_another_method_is_another_identity() -> None:
    model = tiny_model("titok", layout="sequence")
    before = model.identity()
    model.config.sequence.method = "harmonic"
    assert model.identity() != before


def test_a_coefficient_that_is_always_zero_has_finite_points() -> None:
    values = np.stack([np.zeros(6), np.linspace(-1, 1, 6)], axis=1)
    errors, points = quantizers(values)
    assert np.isfinite(errors).all() and all(np.isfinite(each).all() for each in points)
    assert not errors[0].any() and errors[1, -1] < errors[1, 0]
