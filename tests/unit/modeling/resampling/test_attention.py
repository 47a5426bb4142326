"""Laws of the layout `sequence`: a whole cine in a few tokens, any grid of slices and phases, and prefixes of them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modeling.draws import no_draws
from modeling.resampling.attention import AttentionResampler
from modeling.resampling.config import SequenceConfig
from modeling.titok import TiTok
from tests.losses import sum_and_count
from tests.tiny import tiny_config, tiny_model
from tests.unit.modeling.losses.test_where_gradients_go import hearts
from utils.config.recipe import from_plain

POSITION, PHASE = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.0, 1 / 3, 2 / 3]])


def resampler(anatomy_width: int = 0) -> AttentionResampler:
    torch.manual_seed(0)
    config = SequenceConfig(num_tokens=6, levels=[64, 64, 64], width=32, num_layers=2, num_heads=2)
    return AttentionResampler(16, 8, 5, True, anatomy_width, config).eval()


def latents(slices: int = 2, phases: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, slices, phases, 8, 16)


@pytest.mark.parametrize("decoder", ["dit", "titok"])
@pytest.mark.parametrize(("slices", "phases"), [(1, 1), (3, 4), (2, 7)])
def test_a_cine_of_any_grid_becomes_n_tokens_and_comes_back(decoder: str, slices: int, phases: int) -> None:
    model, x = tiny_model(decoder, layout="sequence"), torch.rand(2, 1, 32, 32, slices, phases)
    tokens = model.encode(x)
    assert tokens.shape == (2, 6) and tokens.dtype == torch.long and int(tokens.min()) >= 0
    assert model.decode_tokens(tokens, grid=(slices, phases)).shape == x.shape
    assert model.decode_tokens(tokens, grid=(5, 3)).shape == (2, 1, 32, 32, 5, 3)


def test_the_grid_comes_from_the_call_else_from_the_config_else_it_is_asked_for() -> None:
    model = tiny_model(layout="sequence")
    tokens = model.encode(torch.rand(1, 1, 32, 32, 2, 3))
    with pytest.raises(ValueError, match=r"give grid="):
        model.decode_tokens(tokens)
    model.config.sequence.grid = [2, 3]
    assert model.decode_tokens(tokens).shape[4:] == (2, 3)
    with pytest.raises(ValueError, match="both positive"):
        model.decode_tokens(tokens, grid=(0, 3))
    with pytest.raises(ValueError, match=r"expected \(B, 6\)"):
        model.decode_tokens(tokens[:, :5], grid=(2, 3))
    with pytest.raises(ValueError, match=r"token 64 is out of range"):
        model.decode_tokens(tokens.clamp(min=64), grid=(2, 3))
    frames = tiny_model()
    with pytest.raises(ValueError, match="leave it out"):
        frames.decode_tokens(frames.encode(torch.rand(1, 1, 32, 32, 2, 3)), grid=(2, 3))


def test_padding_slices_and_phases_change_no_token() -> None:
    module, x = resampler(), latents()
    padded = torch.randn(1, 4, 5, 8, 16)
    padded[:, :2, :3] = x
    there = torch.zeros(1, 4, 5, dtype=torch.bool)
    there[:, :2, :3] = True
    position = torch.cat([POSITION, torch.full((1, 2), 0.5)], dim=1)
    phase = torch.cat([PHASE, torch.tensor([[0.1, 0.9]])], dim=1)
    whole, ids = module.compress(x, POSITION, PHASE)
    again, same = module.compress(padded, position, phase, there)
    assert torch.equal(ids, same) and torch.allclose(whole, again, atol=1e-5)
    assert not torch.equal(ids, module.compress(padded, position, phase)[1])


def test_the_last_phase_is_the_neighbour_of_the_first() -> None:
    module = resampler()
    values, _ = module.compress(latents(), POSITION, PHASE)
    sent = torch.ones(1, 6, dtype=torch.bool)
    at = [module.expand(values, sent, POSITION, torch.tensor([[phase]])) for phase in (0.0, 1.0, 0.999, 0.5)]
    assert torch.allclose(at[0], at[1], atol=1e-4)
    assert (at[0] - at[2]).abs().max() < (at[0] - at[3]).abs().max() / 5


def test_frames_that_trade_places_change_the_tokens() -> None:
    module, x = resampler(), latents()
    with torch.no_grad():
        for embedder in (module.places_in.slice, module.places_in.phase):
            embedder.weight.mul_(5)  # untrained, they would hardly be heard among the latents
    ids = module.compress(x, POSITION, PHASE)[1]
    assert not torch.equal(ids, module.compress(x.flip(1), POSITION, PHASE)[1])
    assert not torch.equal(ids, module.compress(x.flip(2), POSITION, PHASE)[1])
    moved = module.compress(x.roll(1, 2), POSITION, PHASE.roll(1, 1))[1]
    assert torch.equal(ids, moved)  # the order in which frames are handed over says nothing


def test_training_and_tokens_give_the_decoder_the_same_context() -> None:
    module = resampler()
    values, ids = module.compress(latents(), POSITION, PHASE)
    sent = torch.ones_like(ids, dtype=torch.bool)
    assert torch.allclose(module.expand(values, sent, POSITION, PHASE), module.context(ids, POSITION, PHASE), atol=1e-5)
    assert torch.allclose(module.context(ids, POSITION, PHASE).norm(dim=-1), torch.ones(1, 2, 3, 8), atol=1e-5)


def test_a_token_that_is_not_sent_is_not_read_and_none_at_all_is_finite() -> None:
    module = resampler()
    ids = module.compress(latents(), POSITION, PHASE)[1]
    other = ids.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 64**3
    sent = torch.arange(6)[None] < 4
    contexts = [module.expand(module.fsq.lookup(x), sent, POSITION, PHASE) for x in (ids, other)]
    assert torch.equal(*contexts)
    assert torch.isfinite(module.context(torch.full((1, 6), -1), POSITION, PHASE)).all()


def test_anatomy_is_inside_the_tokens_and_reaches_the_decoder_no_other_way() -> None:
    model = tiny_model(conditioning="resnet18", layout="sequence")
    with torch.no_grad():
        model.resampler.anatomy_embedder.weight.mul_(50)  # untrained, it would hardly be heard among the latents
    x = torch.rand(1, 1, 32, 32, 2, 4)
    tokens = model.encode(x, ed=0, es=2)
    assert tokens.shape == (1, 6) and model.dit is not None and model.dit.anatomy_embedder is None
    before = model.decode_tokens(tokens, grid=(2, 4))
    with torch.no_grad():
        for parameter in model.conditioning.tokens.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert torch.equal(model.decode_tokens(tokens, grid=(2, 4)), before)
    assert not torch.equal(model.encode(x, ed=0, es=2), tokens)


@pytest.mark.parametrize("layout", ["frame", "sequence"])
def test_a_prefix_is_sent_and_the_rest_is_minus_one(layout: str) -> None:
    model, x = tiny_model(layout=layout), torch.rand(1, 1, 32, 32, 2, 3)
    whole, part = model.encode(x), model.encode(x, keep_tokens=2)
    blocks = [tokens if layout == "sequence" else tokens[0, :, 2:].reshape(-1, 8) for tokens in (whole, part)]
    assert torch.equal(blocks[0][:, :2], blocks[1][:, :2]) and (blocks[1][:, 2:] == -1).all()
    for wrong in (0, 9):
        with pytest.raises(ValueError, match=rf"keep_tokens = {wrong}: expected 1 to"):
            model.encode(x, keep_tokens=wrong)


@pytest.mark.parametrize("layout", ["frame", "sequence"])
def test_training_at_a_budget_sees_what_decoding_that_prefix_sees(layout: str) -> None:
    model, x = tiny_model(layout=layout), torch.rand(2, 1, 32, 32, 2, 4)
    batch = hearts()._replace(image=x.permute(0, 4, 5, 1, 2, 3), has_key_frames=False)
    with torch.no_grad():
        trained = model(batch, no_draws(batch)._replace(keep=torch.tensor([3, 5]))).reconstruction
        trained = trained.permute(0, 3, 4, 5, 1, 2)
    grid = (2, 4) if layout == "sequence" else None
    for index, keep in enumerate((3, 5)):
        decoded = model.decode_tokens(model.encode(x[index : index + 1], keep_tokens=keep), grid=grid)
        torch.testing.assert_close(trained[index].clamp(0, 1), decoded[0], atol=1e-4, rtol=0)


def test_the_reconstruction_reaches_the_resampler_and_not_the_frozen_tokenizer() -> None:
    model = tiny_model(layout="sequence")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("resampler."))
    batch = hearts()
    prediction = model(batch, no_draws(batch))
    prediction.error().square().mean().backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "resampler" in name)
    assert model.resampler.latent_embedder[1].weight.grad.any()
    assert not any(parameter.grad is not None for parameter in model.tokenizer.parameters())


def test_the_resampling_term_is_zero_where_the_contexts_are_the_frames_own_codes() -> None:
    model, batch = tiny_model("titok", layout="sequence"), hearts()
    prediction = model(batch, no_draws(batch))
    total, count = sum_and_count("resampling", prediction, batch)
    assert total > 0 and count == 2 * 2 * 4
    codes = prediction.quantized.codes.view(4, 4, 8, -1)
    assert sum_and_count("resampling", prediction._replace(context=codes), batch)[0] == 0


def test_a_saved_sequence_model_comes_back(tmp_path: Path) -> None:
    model, x = tiny_model(layout="sequence"), torch.rand(1, 1, 32, 32, 2, 3)
    model.save_pretrained(tmp_path)
    again = TiTok.from_pretrained(tmp_path)
    tokens = again.encode(x)
    assert torch.equal(tokens, model.encode(x))
    assert torch.equal(again.decode_tokens(tokens, grid=(2, 3)), model.decode_tokens(tokens, grid=(2, 3)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_tokens": 0}, "num_tokens: expected a number"),
        ({"width": 30}, "multiple of num_heads"),
        ({"grid": [3]}, "grid is"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_plain(SequenceConfig, options)
    with pytest.raises(ValueError, match="expected frame or sequence"):
        type(tiny_config())(layout="volume")
