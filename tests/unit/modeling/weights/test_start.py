"""Where a run's first weights come from."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from modeling.weights.start import start_model
from tests.tiny import tiny_config, tiny_model
from utils.checkpoint import export, save_checkpoint


def stage1(folder: Path) -> Path:
    """An earlier run with the tokenizer's own decoder."""
    model = tiny_model("titok", seed=5)
    config = {"model": asdict(model.config), "taught_by": []}
    export(folder, config, model.state_dict())
    save_checkpoint(folder / "checkpoint_last.pth", config, model.state_dict())
    return folder / "checkpoint_last.pth"


def test_stage_two_takes_tokenizer_and_adapters_and_starts_its_decoder_fresh(tmp_path: Path) -> None:
    config = tiny_config()
    config.tokenizer.init = "owner/never_asked"
    model, fresh = start_model(config, str(stage1(tmp_path)))
    assert fresh == ["dit"]
    trained = tiny_model("titok", seed=5).state_dict()
    own = model.state_dict()
    assert not any(key.startswith("tokenizer.decoder") for key in own)
    for key in ("tokenizer.encoder.conv_out.weight", "adapters.channel.weight", "tokenizer.quantize.embedding.weight"):
        assert torch.equal(own[key], trained[key])


def test_a_later_stage_names_the_source_that_its_tokenizer_began_from(tmp_path: Path) -> None:
    config = tiny_config()
    config.tokenizer.init, config.tokenizer.revision = "owner/never_asked", "main"
    model, _ = start_model(config, str(stage1(tmp_path)))
    began = tiny_config("titok").tokenizer
    assert (model.config.tokenizer.init, model.config.tokenizer.revision) == (began.init, began.revision)


def test_a_dit_that_corrects_a_draft_starts_as_the_earlier_stages_own_decoder(tmp_path: Path) -> None:
    path = str(stage1(tmp_path))
    config = tiny_config()
    config.dit.draft = True
    model, fresh = start_model(config, path)
    assert fresh == ["dit"]
    before = tiny_model("titok", seed=5)
    x = torch.rand(1, 1, 32, 32, 2, 3)
    tokens = before.encode(x)
    assert torch.equal(model.eval().encode(x), tokens)
    torch.testing.assert_close(model.decode_tokens(tokens), before.decode_tokens(tokens), atol=1e-5, rtol=0)


def test_the_frozen_encoder_of_sam3_is_not_taken_for_a_segmenter(tmp_path: Path) -> None:
    config = tiny_config(conditioning={"name": "sam3", "weights": "facebook/sam3", "width": 32})
    assert start_model(config, str(stage1(tmp_path)))[1] == ["conditioning", "dit"]


def test_a_resampler_starts_fresh_on_an_earlier_stage(tmp_path: Path) -> None:
    config = tiny_config("titok", layout="sequence")
    assert start_model(config, str(stage1(tmp_path)))[1] == ["resampler"]


def test_the_folder_of_an_earlier_run_serves_as_well_as_its_checkpoint(tmp_path: Path) -> None:
    stage1(tmp_path)
    config = tiny_config()
    config.tokenizer.init = "owner/never_asked"
    assert start_model(config, str(tmp_path))[1] == ["dit"]


def test_a_published_folder_gives_the_tokenizer_and_its_architecture(tmp_path: Path) -> None:
    tiny_model("titok", seed=5).save_tokenizer(tmp_path)
    config = tiny_config("titok")
    config.tokenizer.init = str(tmp_path)
    config.tokenizer.vq_model = type(config.tokenizer.vq_model)()
    model, fresh = start_model(config, None)
    assert "tokenizer" not in fresh and config.image_size == 32
    assert torch.equal(model.tokenizer.latent_tokens, tiny_model("titok", seed=5).tokenizer.latent_tokens)


def test_weights_of_another_architecture_are_refused_by_component_and_shape(tmp_path: Path) -> None:
    path = str(stage1(tmp_path))
    config = tiny_config("titok")
    config.tokenizer.vq_model.num_latent_tokens = 4  # init is random: the recipe's own architecture stands
    with pytest.raises(ValueError, match="tokenizer"):
        start_model(config, path)
    model = tiny_model("dit")
    export(tmp_path / "two", {"model": asdict(model.config), "taught_by": []}, model.state_dict())
    config = tiny_config()
    config.dit.size = {"width": 48, "num_layers": 2, "num_heads": 2}
    with pytest.raises(ValueError, match="dit"):
        start_model(config, str(tmp_path / "two"))


def test_training_from_scratch_starts_with_local_attention() -> None:
    config = tiny_config("titok")
    torch.manual_seed(0)
    model, _ = start_model(config, None)
    encoder = model.tokenizer.encoder
    x = encoder.ln_pre(torch.cat([encoder.positional_embedding[1:], encoder.latent_token_positional_embedding]))
    width = x.shape[1]
    attention = encoder.transformer[0].attn
    q, k, _ = torch.nn.functional.linear(x, attention.in_proj_weight).split(width, dim=1)
    scores = q[:16] @ k[:16].T
    assert torch.equal(scores.argmax(1), torch.arange(16))  # every patch attends most to itself


def test_weights_that_do_not_name_the_segmenters_of_their_training_are_refused(tmp_path: Path) -> None:
    stage1(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "elsewhere.json")
    torch.save({"model": tiny_model("titok").state_dict(), "config": {"model": {}}}, tmp_path / "state.pth")
    for name in ("model.safetensors", "state.pth"):
        with pytest.raises(ValueError, match=r"has no `taught_by`, the segmenters of its training; give the output"):
            start_model(tiny_config(), str(tmp_path / name))
