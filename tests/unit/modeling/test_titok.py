"""Laws of the model's face: encode, decode_tokens, save and load."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.titok import TiTok
from tests.tiny import tiny_config, tiny_model


def cine(batch: int = 2, slices: int = 3, phases: int = 4, channels: int = 1) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.rand(batch, channels, 32, 32, slices, phases)


@pytest.mark.parametrize("decoder", ["dit", "titok"])
@pytest.mark.parametrize(("slices", "phases"), [(1, 1), (3, 4), (2, 7)])
def test_any_number_of_slices_and_phases_goes_to_tokens_and_back(decoder: str, slices: int, phases: int) -> None:
    model, x = tiny_model(decoder), cine(2, slices, phases)
    tokens = model.encode(x)
    assert tokens.dtype == torch.long and tokens.shape == (2, slices, 2 + phases * 8)
    decoded = model.decode_tokens(tokens)
    assert decoded.shape == x.shape and decoded.min() >= 0 and decoded.max() <= 1


def test_single_images_become_k_tokens_and_images_again() -> None:
    model, x = tiny_model(), cine()[..., 0, 0]
    tokens = model.encode(x)
    assert tokens.shape == (2, 8)
    assert model.decode_tokens(tokens).shape == x.shape


def test_a_published_tokenizer_takes_and_gives_three_channels() -> None:
    model, x = tiny_model("titok", channels=3), cine(channels=3)[..., 0, 0]
    tokens = model.encode(x)
    assert tokens.shape == (2, 8) and model.decode_tokens(tokens).shape == x.shape


def test_the_key_frames_stand_in_the_tokens_as_given_or_as_chosen() -> None:
    model, x = tiny_model(), cine()
    assert model.encode(x, ed=2, es=torch.tensor([1, 3]))[:, :, :2].tolist() == [[[2, 1]] * 3, [[2, 3]] * 3]
    x[..., 3] = 1 - x[..., 0].round()
    assert model.encode(x)[:, :, :2].tolist() == [[[0, 3]] * 3] * 2


def test_a_batch_decodes_as_its_members_do_and_chunks_change_nothing() -> None:
    model, x = tiny_model(), cine()
    tokens = model.encode(x)
    whole = model.decode_tokens(tokens)
    assert torch.allclose(model.decode_tokens(tokens[1:]), whole[1:], atol=1e-5)
    model.chunks.frames = 1
    assert torch.equal(model.encode(x), tokens)
    assert torch.allclose(model.decode_tokens(tokens), whole, atol=1e-5)


def test_an_id_that_was_not_sent_is_a_zero_vector_to_the_decoder() -> None:
    model = tiny_model()
    tokens = model.encode(cine())
    dropped = tokens.clone()
    dropped[:, :, 2:] = -1
    assert torch.isfinite(model.decode_tokens(dropped)).all()
    assert not torch.equal(model.decode_tokens(dropped), model.decode_tokens(tokens))


def test_samples_follow_the_seed_and_realism_blends_them_with_the_mean() -> None:
    model = tiny_model()
    tokens = model.encode(cine())
    mean = model.decode_tokens(tokens)
    first, again = (model.decode_tokens(tokens, steps=3, realism=1.0, seed=4) for _ in range(2))
    other = model.decode_tokens(tokens, steps=3, realism=1.0, seed=5)
    assert torch.equal(first, again) and not torch.equal(first, other)
    near = model.decode_tokens(tokens, steps=3, realism=1e-4, seed=4)
    assert (near - mean).abs().max() < 1e-2


@pytest.mark.parametrize("layout", ["frame", "sequence"])
@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_sample_is_the_same_whatever_the_batch_and_the_chunks(sampler: str, layout: str) -> None:
    model = tiny_model(layout=layout)
    grid = (3, 4) if layout == "sequence" else None
    options = {"steps": 3, "realism": 0.7, "seed": 4, "sampler": sampler, "grid": grid}
    tokens = model.encode(cine())
    whole = model.decode_tokens(tokens, **options)
    alone = torch.cat([model.decode_tokens(part, **options) for part in tokens.split(1)])
    torch.testing.assert_close(alone, whole, atol=1e-4, rtol=0)
    model.chunks.frames = 1
    torch.testing.assert_close(model.decode_tokens(tokens, **options), whole, atol=1e-4, rtol=0)
    assert not torch.allclose(model.decode_tokens(tokens, **{**options, "seed": 5}), whole, atol=1e-3)


def test_bfloat16_works_throughout() -> None:
    model = tiny_model().to(torch.bfloat16)
    decoded = model.decode_tokens(model.encode(cine().to(torch.bfloat16)))
    assert decoded.dtype == torch.bfloat16 and torch.isfinite(decoded).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_tokens_of_the_cpu() -> None:
    model, x = tiny_model(), cine()
    tokens = model.encode(x)
    assert (model.cuda().encode(x.cuda()).cpu() == tokens).float().mean() > 0.99


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x[:, :, :16], "expected .B, 1, 32, 32"),
        (lambda x: x[0], "shape"),
        (lambda x: x.expand(-1, 3, -1, -1, -1, -1), "expected .B, 1, 32, 32"),
        (lambda x: (x * 255).to(torch.uint8), "expected floating point"),
        (lambda x: x * 255, r"expected \[0, 1\]"),
        (lambda x: x - 0.5, r"expected \[0, 1\]"),
        (lambda x: x.masked_fill(x > 0.9, torch.nan), "NaN"),
        (lambda x: x[..., :0], "empty"),
    ],
)
def test_images_that_are_not_windowed_frames_of_this_size_are_refused(
    spoil: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_model().encode(spoil(cine()))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t[:, :, :-1], "expected .B, D, 2"),
        (lambda t: t.int(), "torch.int64"),
        (lambda t: t.index_fill(2, torch.tensor([5]), 64), "latent token 64 is out of range"),
        (lambda t: t.index_fill(2, torch.tensor([5]), -2), "latent token -2 is out of range"),
        (lambda t: t.index_fill(2, torch.tensor([0]), 4), "ED/ES index 4 is out of range"),
        (lambda t: t[0, :, :9], r"expected \(B, 8\)"),
    ],
)
def test_tokens_that_this_model_cannot_have_written_are_refused(
    spoil: Callable[[torch.Tensor], torch.Tensor], words: str
) -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=words):
        model.decode_tokens(spoil(model.encode(cine())))


def test_options_and_phases_that_make_no_sense_are_refused() -> None:
    model, x = tiny_model(), cine()
    tokens = model.encode(x)
    for options in ({"steps": 4}, {"realism": 0.5}, {"steps": 4, "realism": 2.0}):
        with pytest.raises(ValueError, match="realism"):
            model.decode_tokens(tokens, **options)
    with pytest.raises(ValueError, match="expected phases 0 to 3"):
        model.encode(x, es=4)
    with pytest.raises(ValueError, match="expected dit or titok"):
        TiTok(tiny_config("vae"))


def test_a_saved_model_comes_back_with_the_same_tokens_and_images(tmp_path: Path) -> None:
    model, x = tiny_model(), cine()
    model.save_pretrained(tmp_path)
    again = TiTok.from_pretrained(tmp_path)
    assert not again.training
    tokens = again.encode(x)
    assert torch.equal(tokens, model.encode(x))
    assert torch.equal(again.decode_tokens(tokens), model.decode_tokens(tokens))


def test_a_tokenizer_in_the_published_layout_loads_as_a_three_channel_model(tmp_path: Path) -> None:
    model = tiny_model("titok")
    model.save_tokenizer(tmp_path)
    published = TiTok.from_pretrained(tmp_path)
    gray = cine()[..., 0, 0]
    with torch.no_grad():
        model.adapters.channel.weight.fill_(1)
        model.adapters.channel.bias.zero_()
        for layer in model.adapters.phase:
            layer.proj.weight.zero_()
            layer.proj.bias.zero_()
    assert published.config.channels == 3
    assert torch.equal(published.encode(gray.expand(-1, 3, -1, -1)), model.encode(gray))


def test_renamed_missing_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    state = load_file(file)
    save_file({**state, "extra": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, or not the weights of its config\.json"):
        TiTok.from_pretrained(tmp_path)
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "weights_hash"}))
    for spoiled, words in (
        ({"extra" if k == "dit.token_embed" else k: v for k, v in state.items()}, "missing keys: dit.token_embed"),
        ({**state, "extra": torch.zeros(1)}, "unknown keys: extra"),
        ({**state, "dit.token_embed": torch.zeros(3, 3)}, "other shapes: dit.token_embed"),
    ):
        save_file(spoiled, file)
        with pytest.raises(ValueError, match=words):
            TiTok.from_pretrained(tmp_path)


def test_what_is_not_there_or_not_a_model_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        TiTok.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin"):
        TiTok.from_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"something": "else"}))
    with pytest.raises(ValueError, match="neither a TiTok-MRI model nor a published tokenizer"):
        TiTok.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected 'vq'"):
        config = tiny_config()
        config.tokenizer.vq_model.quantize_mode = "vae"
        TiTok(config)


@pytest.mark.parametrize("shape", [(0, 2, 2 + 3 * 8), (1, 0, 2 + 3 * 8), (0, 8)])
def test_tokens_of_nothing_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="nothing to decode"):
        tiny_model().decode_tokens(torch.zeros(shape, dtype=torch.long))
