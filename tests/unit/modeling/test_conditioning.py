"""What every conditioning promises, and what anatomy tokens add: sent, counted, and the only way to the decoder."""

import pytest
import torch

from data import bitstream
from data.preprocess import prepare
from data.sources.phantom import Options, PhantomSource
from modeling.conditioning import resnet18
from modeling.phases import key_phases
from modeling.tokens import NOT_SENT, anatomy_is_sent
from tests.tiny import tiny_config, tiny_model
from utils import registry
from utils.config import ConfigError

NAMES = registry.names("modeling.conditioning")


def cine(phases: int = 4, slices: int = 2, batch: int = 1) -> torch.Tensor:
    torch.manual_seed(3)
    return torch.rand(batch, 1, 32, 32, slices, phases)


@pytest.mark.parametrize("name", NAMES)
def test_every_conditioning_goes_to_tokens_and_back_in_its_stated_number(name: str) -> None:
    model = tiny_model(conditioning=name)
    tokens = model.encode(cine())
    assert tokens.shape == (1, 2, 2 + 4 * 8 + 2 * model.conditioning.num_tokens)
    assert model.decode_tokens(tokens).shape == (1, 1, 32, 32, 2, 4)


@pytest.mark.parametrize("name", NAMES)
def test_encoding_then_looking_up_gives_the_context_that_training_saw(name: str) -> None:
    conditioning = tiny_model(conditioning=name).conditioning
    frames = torch.rand(3, 2, 1, 32, 32)
    seen = conditioning(frames, torch.ones(3, dtype=torch.bool))
    context = conditioning.context(conditioning.encode(frames.flatten(0, 1)).view(3, 2 * conditioning.num_tokens))
    if seen is None:
        assert context is None and conditioning.num_tokens == 0
    else:
        assert torch.allclose(context, seen.context, atol=1e-5)


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
        model(image, torch.full((1, 2), 0.5), torch.arange(4)[None] / 4, torch.zeros(1), image, torch.tensor([[1, 3]]))
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


def test_anatomy_tokens_change_the_decode_and_may_be_left_unsent() -> None:
    model = tiny_model(conditioning="resnet18")
    tokens = model.encode(cine(), 0, 2)
    other, unsent = tokens.clone(), tokens.clone()
    other[:, :, -8:] = (other[:, :, -8:] + 1) % 4096
    unsent[:, :, -8:] = NOT_SENT
    decoded = [model.decode_tokens(t) for t in (tokens, other, unsent)]
    assert not torch.equal(decoded[0], decoded[1]) and not torch.equal(decoded[0], decoded[2])


def test_anatomy_tokens_are_counted_in_the_bits_of_the_file_and_unsent_ones_are_not() -> None:
    model = tiny_model(conditioning="resnet18")
    case = PhantomSource(Options(patients=1, size=128, slices=2, phases=4)).load("patient001")
    prepared = prepare(case, 32, "crop")
    tokens = model.encode(torch.from_numpy(prepared.image)[None])[0].numpy()

    def bits(tokens: object, anatomy: int) -> int:
        sizes = {"codebook_size": 64, "anatomy_codebook_size": model.layout.anatomy_codebook_size if anatomy else 0}
        header = bitstream.header_for(case, prepared, num_latent_tokens=8, num_anatomy_tokens=anatomy, **sizes)
        return 8 * len(bitstream.pack(tokens, header))

    without = bits(tokens[:, : -2 * 4], 0)
    sent = tokens.copy()
    sent[:, -8:] = NOT_SENT
    slices, keys, tokens_a_key, bits_a_token = 2, 2, 4, 12
    payload = slices * keys * tokens_a_key * bits_a_token
    assert payload <= bits(tokens, 4) - without <= payload + 64  # a few header fields beside
    assert bits(sent, 4) < bits(tokens, 4)


def test_the_decoder_s_error_trains_the_tokens_and_never_the_segmenter() -> None:
    model = tiny_model(conditioning="resnet18").train()
    image = cine()
    out = model(image, torch.full((1, 2), 0.5), torch.arange(4)[None] / 4, torch.zeros(1), torch.zeros_like(image),
                torch.tensor([[0, 2]]))  # fmt: skip
    out.error().square().mean().backward()
    summary = [p.grad for p in model.conditioning.tokens.summary.parameters()]
    assert all(g is not None for g in summary) and any(g.abs().sum() > 0 for g in summary)
    assert all(p.grad is None for p in model.segmenter.parameters())


def test_which_samples_lose_their_anatomy_follows_from_their_seeds_alone() -> None:
    seeds = torch.arange(1000)
    sent = anatomy_is_sent(seeds, 0.25)
    assert 0.7 < sent.float().mean() < 0.8
    assert torch.equal(anatomy_is_sent(seeds.flip(0), 0.25).flip(0), sent)
    assert anatomy_is_sent(seeds, 0.0).all() and not anatomy_is_sent(seeds, 1.0).any()


def test_a_sample_whose_anatomy_is_not_sent_decodes_as_one_without_key_frames() -> None:
    model = tiny_model(conditioning="resnet18")
    image = cine()
    rest = (image, torch.full((1, 2), 0.5), torch.arange(4)[None] / 4, torch.zeros(1), torch.zeros_like(image))
    with torch.no_grad():
        unsent = model(*rest, torch.tensor([[0, 2]]), torch.zeros(1, dtype=torch.bool)).reconstruction
        assert torch.allclose(unsent, model(*rest).reconstruction, atol=1e-6)
        assert not torch.allclose(unsent, model(*rest, torch.tensor([[0, 2]])).reconstruction, atol=1e-6)


def test_morphology_reads_area_centroid_and_wall_of_circles() -> None:
    row, column = torch.meshgrid(torch.linspace(-0.5, 0.5, 101), torch.linspace(-0.5, 0.5, 101), indexing="ij")
    radius = ((row - 0.1).square() + (column + 0.2).square()).sqrt()
    lv, myo = (radius < 0.15).float(), ((radius >= 0.15) & (radius < 0.22)).float()
    found = resnet18.morphology(torch.stack([torch.zeros_like(lv), myo, lv])[None])[0]
    assert found[2] == pytest.approx((torch.pi * 0.15**2) ** 0.5, rel=0.03)
    assert (found[5], found[8]) == (pytest.approx(0.1, abs=0.01), pytest.approx(-0.2, abs=0.01))
    assert found[9] == pytest.approx(0.07, rel=0.05)


def test_end_diastole_and_end_systole_are_where_the_segmented_lv_is_largest_and_smallest() -> None:
    x = torch.rand(2, 1, 8, 8, 1, 5)
    lv = torch.tensor([[3, 5, 4, 2, 4], [0, 0, 0, 0, 0]])
    ed, es = key_phases(x, None, None, lv)
    plain_ed, plain_es = key_phases(x, None, None)
    assert (int(ed[0]), int(es[0])) == (1, 3)
    assert (ed[1], es[1]) == (plain_ed[1], plain_es[1])  # no LV found: phase 0 and the phase most unlike it
    assert key_phases(x, 2, None, lv)[0].tolist() == [2, 2]


def test_encode_asks_the_segmenter_for_key_frames_that_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(conditioning="resnet18")
    sizes = iter([5, 2, 7, 3])

    def labels(x: torch.Tensor) -> torch.Tensor:  # frames come phase by phase, two slices each
        out = torch.zeros(len(x), 32, 32, dtype=torch.uint8)
        for phase in range(len(x) // 2):
            out[2 * phase, 0, : next(sizes)] = 3
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
    with pytest.raises(ValueError, match="segmenter alone"):
        tiny_config("none")
