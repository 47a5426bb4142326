"""What every conditioning promises, and what anatomy tokens add: sent, counted, and the only way to the decoder."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from data.bitstream import container
from data.bitstream.header import header_for
from data.preprocess import prepare
from data.sources.phantom import Options as PhantomOptions
from data.sources.phantom import PhantomSource
from modeling.conditioning._anatomy import morphology
from modeling.draws import draw, no_draws
from modeling.titok import TiTok
from modeling.weights.pretrained import export_config
from tests.tiny import tiny_config, tiny_model
from utils.config import registry
from utils.config.recipe import ConfigError
from utils.layout import NOT_TRANSMITTED, FrameLayout
from utils.types import Batch

NAMES = registry.names("modeling.conditioning")


def cine(phases: int = 4, slices: int = 2, batch: int = 1) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.rand(batch, 1, 32, 32, slices, phases)


@pytest.fixture(scope="module")
def sam3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision encoder of SAM 3's kind with random weights, 56 px and 16 channels, as transformers writes it."""
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="sam3 is an optional extra")
    folder = tmp_path_factory.mktemp("sam3")
    backbone = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": 56, "pretrain_image_size": 56, "window_size": 2, "global_attn_indexes": [1]}  # fmt: skip
    torch.manual_seed(0)
    config = transformers.Sam3VisionConfig(backbone_config=transformers.Sam3ViTConfig(**backbone), fpn_hidden_size=16)
    transformers.Sam3VisionModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The section of a recipe that chooses the conditioning of a test."""
    if request.param != "sam3":
        return {"name": request.param}
    folder = request.getfixturevalue("sam3_folder")
    return {"name": "sam3", "weights": str(folder), "feature_channels": 16, "grid": 2, "channels": 4, "width": 32}


every = pytest.mark.parametrize("options", NAMES, indirect=True)
every_that_sends = pytest.mark.parametrize("options", [name for name in NAMES if name != "none"], indirect=True)


def batch_of(x: torch.Tensor, keys: list[int]) -> Batch:
    """A training batch of one cine (1, 1, 32, 32, 2, 4) with random labels at ED and ES."""
    frames = x.permute(0, 4, 5, 1, 2, 3)
    return Batch(
        image=frames, mask=torch.randint(4, (1, 2, 4, 32, 32), dtype=torch.uint8),
        has_label=torch.ones(1, 2, 4, dtype=torch.bool), field=torch.ones(1, 2, 32, 32, dtype=torch.bool),
        slice_position=torch.full((1, 2), 0.5), phase=torch.arange(4)[None] / 4, key_frames=torch.tensor([keys]),
        spacing_mm=torch.ones(1, 3), bsa_m2=torch.ones(1), sample_seed=torch.tensor([1]), patient=torch.tensor([1]),
        key=["a"], has_key_frames=True,
    )  # fmt: skip


def truth_for(model: TiTok) -> dict[str, Any]:
    """What `encode` has to be told beside a cine of 2 slices and 4 phases."""
    torch.manual_seed(5)
    return {"mask": torch.randint(4, (1, 32, 32, 2, 4), dtype=torch.uint8)} if model.conditioning.leak else {}


@every
def test_every_conditioning_goes_to_tokens_and_back_in_its_stated_number(options: dict[str, Any]) -> None:
    model = tiny_model(conditioning=options)
    conditioning = model.conditioning
    tokens = model.encode(cine(), 0, 2, **truth_for(model))
    assert tokens.shape == (1, 2, 2 + 4 * 8 + 2 * conditioning.num_tokens)
    assert model.decode_tokens(tokens).shape == (1, 1, 32, 32, 2, 4)
    anatomy = tokens[:, :, 2 + 4 * 8 :]
    assert ((anatomy >= 0) & (anatomy < max(1, conditioning.codebook_size))).all()
    assert (conditioning.width > 0) == (conditioning.num_tokens > 0) == (conditioning.codebook_size > 0)


@every
def test_encoding_then_looking_up_gives_the_context_that_training_saw(options: dict[str, Any]) -> None:
    conditioning = tiny_model(conditioning=options).conditioning
    frames, masks = torch.rand(3, 2, 1, 32, 32), torch.randint(4, (3, 2, 32, 32))
    seen = conditioning(frames, torch.ones(3, dtype=torch.bool), masks)
    ids = conditioning.encode(frames.flatten(0, 1), masks.flatten(0, 1)).view(3, 2 * conditioning.num_tokens)
    context = conditioning.context(ids)
    if seen is None:
        assert context is None and conditioning.num_tokens == 0
    else:
        assert context.shape == (3, 2 * conditioning.num_tokens, conditioning.width)
        assert torch.allclose(context, seen.context, atol=1e-5)
        unsent = conditioning(frames, torch.zeros(3, dtype=torch.bool), masks).context
        assert torch.allclose(unsent, conditioning.context(torch.full_like(ids, NOT_TRANSMITTED)), atol=1e-6)
        assert not torch.allclose(unsent, context, atol=1e-3)


@every
def test_a_model_of_every_conditioning_comes_back_from_its_own_weights(options: dict[str, Any]) -> None:
    model, again = tiny_model(conditioning=options), tiny_model(conditioning=options, seed=7)
    again.load_state_dict(model.state_dict())
    tokens = model.encode(cine(), 0, 2, **truth_for(model))
    assert torch.equal(again.encode(cine(), 0, 2, **truth_for(again)), tokens)
    assert torch.equal(again.decode_tokens(tokens), model.decode_tokens(tokens))


@every_that_sends
@pytest.mark.parametrize("fusion", ["mid", "early"])
def test_the_decoder_knows_of_anatomy_what_the_ids_say_and_nothing_else(options: dict[str, Any], fusion: str) -> None:
    config = tiny_config(conditioning=options)
    config.dit.fusion = fusion
    models = [filled(TiTok(config).eval()) for _ in range(2)]  # the second never sees scan or truth
    models[1].load_state_dict(models[0].state_dict())
    tokens = models[0].encode(cine(), 0, 2, **truth_for(models[0]))
    models[0].encode(1 - cine(), 1, 3, **{name: 3 - value for name, value in truth_for(models[0]).items()})
    decoded = models[0].decode_tokens(tokens)
    assert torch.equal(models[1].decode_tokens(tokens), decoded)
    other, unsent = tokens.clone(), tokens.clone()
    anatomy = slice(2 + 4 * 8, None)
    other[:, :, anatomy] = (other[:, :, anatomy] + 1) % models[0].conditioning.codebook_size
    unsent[:, :, anatomy] = NOT_TRANSMITTED
    assert not torch.equal(models[0].decode_tokens(other), decoded)
    assert not torch.equal(models[0].decode_tokens(unsent), decoded)


@every_that_sends
@pytest.mark.parametrize("fusion", ["mid", "early"])
def test_before_training_anatomy_changes_nothing_and_afterwards_its_tokens_are_trained(
    options: dict[str, Any], fusion: str
) -> None:
    config = tiny_config(conditioning=options)
    config.dit.fusion = fusion
    torch.manual_seed(0)
    fresh = TiTok(config).eval()
    torch.nn.init.normal_(fresh.dit.head[-1].weight)  # an output that is not zero
    tokens = fresh.encode(cine(), 0, 2, **truth_for(fresh))
    unsent = tokens.clone()
    unsent[:, :, 2 + 4 * 8 :] = NOT_TRANSMITTED
    assert torch.equal(fresh.decode_tokens(tokens), fresh.decode_tokens(unsent))
    model, batch = filled(fresh), batch_of(cine(), [0, 2])
    model(batch, no_draws(batch)).error().square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.conditioning.tokens.parameters())


def filled(model: TiTok) -> TiTok:
    """The model with something in every zero-initialised layer, so that all of it has an effect."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return model


def test_early_fusion_builds_a_map_and_no_cross_attention_and_wants_anatomy_tokens() -> None:
    config = tiny_config(conditioning="resnet18")
    config.dit.fusion = "early"
    keys = TiTok(config).state_dict()
    assert any("map_decoder" in key for key in keys) and not any("cross_attn" in key for key in keys)
    config = tiny_config()
    config.dit.fusion = "early"
    with pytest.raises(ValueError, match=r"early where .* sends anatomy tokens"):
        TiTok(config)


def test_ground_truth_is_asked_for_stamped_and_never_published(tmp_path: Path) -> None:
    model = tiny_model(conditioning="mask")
    with pytest.raises(ValueError, match=r"give encode\(x, ed=..., es=..., mask=...\)"):
        model.encode(cine(), 0, 2)
    with pytest.raises(ValueError, match="not saved: ground-truth masks"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    assert export_config({}, [], model.conditioning.leak)["leak"] and "leak" not in export_config({}, [])


@pytest.mark.parametrize("name", ["none", "resnet18", "unet"])
def test_no_method_takes_a_mask(name: str) -> None:
    model = tiny_model(conditioning=name)
    with pytest.raises(ValueError, match="only a model of conditioning mask takes one"):
        model.encode(cine(), 0, 2, mask=torch.zeros(1, 32, 32, 2, 4, dtype=torch.uint8))
    assert model.conditioning.leak is None


def sam3(folder: Path, **options: Any) -> Any:
    section = {"name": "sam3", "weights": str(folder), "feature_channels": 16, "grid": 2, **options}
    return registry.build("modeling.conditioning", "sam3", section, "model.conditioning")


def test_frozen_features_are_worked_out_once_kept_on_disk_and_never_exported(sam3_folder: Path, tmp_path: Path) -> None:
    frames = torch.rand(3, 1, 32, 32)
    first, again = (sam3(sam3_folder, cache_dir=str(tmp_path / "features")) for _ in range(2))
    again.load_state_dict(first.state_dict())
    ids = first.encode(frames[[0, 1, 2, 1]])
    assert len(list((tmp_path / "features").glob("*.npy"))) == 3
    assert torch.equal(again.encode(frames[[0, 1, 2, 1]]), ids) and again.features.encoder is None  # read from disk
    assert not any(key.startswith("features") for key in first.state_dict())
    assert not any(p.requires_grad for p in first.features.encoder.parameters())
    damaged = next((tmp_path / "features").glob("*.npy"))
    damaged.write_bytes(b"cut")
    third = sam3(sam3_folder, cache_dir=str(tmp_path / "features"))
    third.load_state_dict(first.state_dict())
    assert torch.equal(third.encode(frames[[0, 1, 2, 1]]), ids) and damaged.stat().st_size > 100


def test_weights_that_cannot_be_had_or_do_not_fit_say_what_to_do(
    sam3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = torch.rand(1, 1, 32, 32)
    with pytest.raises(ValueError, match=r"feature_channels is 8, but .* gives 16"):
        sam3(sam3_folder, feature_channels=8).encode(frames)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="hf auth login"):
        sam3(tmp_path / "empty").encode(frames)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="pip install 'transformers>=5'"):
        sam3(sam3_folder).encode(frames)


def test_no_conditioning_builds_no_cross_attention_and_no_weights() -> None:
    keys = tiny_model().state_dict()
    assert not any("cross_attn" in key or "anatomy" in key or key.startswith("conditioning") for key in keys)
    assert any("cross_attn" in key for key in tiny_model(conditioning="resnet18").state_dict())


def test_nothing_reaches_the_decoder_that_is_not_in_the_tokens() -> None:
    """The original and a ground truth are overwritten after encode: the decode stays the same to the bit."""
    model = tiny_model(conditioning="resnet18")
    image, truth = cine(), torch.randint(4, (1, 32, 32, 2, 4))
    batch_of_truth = truth.clone()
    tokens = model.encode(image, 0, 2)
    before = model.decode_tokens(tokens.clone())
    image.zero_()
    truth.zero_()
    with torch.no_grad():
        batch = batch_of(image, [1, 3])
        model(batch, no_draws(batch))
        model.segmenter.labels(torch.rand(2, 1, 32, 32))
    assert not torch.equal(truth, batch_of_truth)
    assert torch.equal(model.decode_tokens(tokens.clone()), before)
    fresh = tiny_model(conditioning="resnet18")  # a decoder that never saw the scan
    assert torch.equal(fresh.decode_tokens(tokens), before)


def test_decoding_never_runs_the_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(conditioning="resnet18")
    tokens = model.encode(cine(), 0, 2)

    def refuse(*_: object) -> None:
        raise AssertionError("the segmenter ran")

    monkeypatch.setattr(model.segmenter, "forward", refuse)
    model.decode_tokens(tokens)


def test_anatomy_tokens_are_counted_in_the_bits_of_the_file_and_unsent_ones_are_not() -> None:
    model = tiny_model(conditioning="resnet18")
    case = PhantomSource(PhantomOptions(patients=1, size=128, slices=2, phases=4)).load("patient001")
    prepared = prepare(case, 32, "crop")
    tokens = model.encode(torch.from_numpy(prepared.image)[None])[0].numpy()

    def bits(tokens: object, anatomy: int) -> int:
        layout = FrameLayout(8, 64, anatomy, model.layout.anatomy_codebook_size if anatomy else 0)
        header = header_for(case, prepared, layout)
        return 8 * len(container.pack(tokens, header))

    without = bits(tokens[:, : -2 * 4], 0)
    sent = tokens.copy()
    sent[:, -8:] = NOT_TRANSMITTED
    slices, keys, tokens_a_key, bits_a_token = 2, 2, 4, 12
    payload = slices * keys * tokens_a_key * bits_a_token
    assert payload <= bits(tokens, 4) - without <= payload + 64  # a few header fields beside
    assert bits(sent, 4) < bits(tokens, 4)


def test_the_decoder_s_error_trains_the_tokens_and_never_the_segmenter() -> None:
    model = tiny_model(conditioning="resnet18").train()
    batch = batch_of(cine(), [0, 2])
    model(batch, no_draws(batch)).error().square().mean().backward()
    summary = [p.grad for p in model.conditioning.tokens.summary.parameters()]
    assert all(g is not None for g in summary) and any(g.abs().sum() > 0 for g in summary)
    assert all(p.grad is None for p in model.segmenter.parameters())


def test_which_samples_lose_their_anatomy_follows_from_their_seeds_alone() -> None:
    seeds = torch.arange(1000)

    def transmitted(seeds: torch.Tensor, dropout: float) -> torch.Tensor:
        return draw(batch_of(cine(), [0, 2])._replace(sample_seed=seeds), None, dropout, [], 0).anatomy

    some = transmitted(seeds, 0.25)
    assert 0.7 < some.float().mean() < 0.8
    assert torch.equal(transmitted(seeds.flip(0), 0.25).flip(0), some)
    assert transmitted(seeds, 0.0).all() and not transmitted(seeds, 1.0).any()


def test_a_sample_whose_anatomy_is_not_sent_decodes_as_one_without_key_frames() -> None:
    model = tiny_model(conditioning="resnet18")
    batch = batch_of(cine(), [0, 2])
    draws, bare = no_draws(batch), batch._replace(has_key_frames=False)
    with torch.no_grad():
        without = model(batch, draws._replace(anatomy=torch.zeros(1, dtype=torch.bool))).reconstruction
        assert torch.allclose(without, model(bare, draws).reconstruction, atol=1e-6)
        assert not torch.allclose(without, model(batch, draws).reconstruction, atol=1e-6)


def test_morphology_reads_area_centroid_and_wall_of_circles() -> None:
    row, column = torch.meshgrid(torch.linspace(-0.5, 0.5, 101), torch.linspace(-0.5, 0.5, 101), indexing="ij")
    radius = ((row - 0.1).square() + (column + 0.2).square()).sqrt()
    lv, myo = (radius < 0.15).float(), ((radius >= 0.15) & (radius < 0.22)).float()
    found = morphology(torch.stack([torch.zeros_like(lv), myo, lv])[None])[0]
    assert found[2] == pytest.approx((torch.pi * 0.15**2) ** 0.5, rel=0.03)
    assert (found[5], found[8]) == (pytest.approx(0.1, abs=0.01), pytest.approx(-0.2, abs=0.01))
    assert found[9] == pytest.approx(0.07, rel=0.05)


def test_encode_segments_to_choose_key_frames_that_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(conditioning="resnet18")
    sizes = iter([5, 2, 7, 3])

    def labels(x: torch.Tensor) -> torch.Tensor:  # frames come slice by slice, four phases each
        out = torch.zeros(len(x), 32, 32, dtype=torch.uint8)
        for phase in range(4):
            out[phase, 0, : next(sizes)] = 3
        return out

    monkeypatch.setattr(model.segmenter, "labels", labels)
    assert model.encode(cine())[0, 0, :2].tolist() == [2, 1]


def test_options_that_make_no_sense_are_refused() -> None:
    for options in ({"num_tokens": 0}, {"dropout": 1.5}, {"levels": [1, 8]}, {"wights": "x"}):
        with pytest.raises((ValueError, ConfigError)):
            registry.build("modeling.conditioning", "resnet18", {"name": "resnet18", **options}, "model.conditioning")


def test_a_model_that_only_segments_says_so_when_asked_for_tokens() -> None:
    model = tiny_model("none", conditioning="resnet18")
    with pytest.raises(ValueError, match="only segments"):
        model.encode(cine())
    assert model.segmenter.labels(torch.rand(2, 1, 32, 32)).shape == (2, 32, 32)
    with pytest.raises(ValueError, match="needs a conditioning with a segmenter"):
        tiny_config("none")


def test_a_mask_for_single_images_is_refused() -> None:
    with pytest.raises(ValueError, match="only a model of conditioning mask takes one"):
        tiny_model(conditioning="mask").encode(torch.rand(2, 1, 32, 32), mask=torch.zeros(2, 32, 32, dtype=torch.uint8))


def test_the_identity_follows_the_frozen_weights_and_not_where_they_are_cached(
    sam3_folder: Path, tmp_path: Path
) -> None:
    section = {"name": "sam3", "weights": str(sam3_folder), "feature_channels": 16, "grid": 2, "width": 32}

    def tokens_id(**more: Any) -> int:
        torch.manual_seed(0)
        return tiny_model(conditioning={**section, **more}).identity().tokens_id

    base = tokens_id()
    assert tokens_id(cache_dir=str(tmp_path)) == tokens_id(dropout=0.5) == base != tokens_id(weights="other/sam3")
