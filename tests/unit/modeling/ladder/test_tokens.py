"""A cine of any shape goes to tokens and back, slice by slice, and nothing else is taken for one."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling.ladder.region import Region
from modeling.titok import TiTok
from tests.ladders import as_input, fixed_ladder, smooth_cine, trained_ladder
from tests.tiny import tiny_config, tiny_model
from utils.layout import LadderLayout

HEAD = 9  # numbers of a row before the basis


def rms(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean().sqrt())


@pytest.mark.parametrize(
    ("slices", "phases", "height", "width"),
    [(1, 1, 1, 1), (2, 1, 9, 12), (1, 2, 37, 53), (3, 5, 8, 8), (1, 7, 1, 20), (2, 3, 33, 7), (1, 40, 8, 9)],
)
def test_a_cine_of_any_shape_goes_to_tokens_and_back(slices: int, phases: int, height: int, width: int) -> None:
    x, rank = as_input(smooth_cine(slices, phases, height, width)), min(phases, 32)
    tokens = trained_ladder().encode(x, step=0.02)
    assert tokens.dtype == torch.long and tokens.shape == (1, slices, HEAD + rank * (phases + height * width))
    assert tokens[0, :, :4].tolist() == [[height, width, phases, rank]] * slices
    decoded = trained_ladder().decode_tokens(tokens)
    assert decoded.shape == x.shape and decoded.min() >= 0 and decoded.max() <= 1
    assert rms(decoded, x) < 0.014 if phases <= 32 else rms(decoded, x) < 0.05


def test_a_fine_step_gives_almost_the_original() -> None:
    x = as_input(smooth_cine(2, 6, 37, 53))
    plain = TiTok(tiny_config(layout="ladder")).eval()  # its refinement changes nothing yet
    assert rms(plain.decode_tokens(plain.encode(x, step=0.001)), x) < 0.001


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("phases", "height"), [(1, 1), (5, 21)])
def test_an_even_cine_takes_one_component_at_most_and_comes_back(level: float, phases: int, height: int) -> None:
    plain = TiTok(tiny_config(layout="ladder")).eval()
    x = torch.full((1, 1, height, 17, 2, phases), level)
    for target in ({"step": 0.01}, {"psnr": 45.0}, {"bytes_per_frame": 90.0}):
        tokens = plain.encode(x, **target)
        assert rms(plain.decode_tokens(tokens), x) < 0.006
        basis = tokens[0, 0, HEAD : HEAD + phases * phases].view(phases, phases)
        assert (basis[:, 1:] == -1).all() and (basis[:, 0] >= 0).all() == (level > 0)


def test_a_cine_that_does_not_move_needs_one_component() -> None:
    still = smooth_cine(2, 1, 21, 17).expand(-1, 6, -1, -1)
    tokens = trained_ladder().encode(as_input(still), step=0.05)
    basis = tokens[0, 0, HEAD : HEAD + 36].view(6, 6)
    assert (basis[:, 0] >= 0).all() and (basis[:, 1:] == -1).all()
    assert rms(trained_ladder().decode_tokens(tokens), as_input(still)) < 0.02


@pytest.mark.parametrize("region", [None, Region(10, 12, 6, 8)])
def test_every_row_decodes_alone_to_its_slice(region: Region | None) -> None:
    x = as_input(smooth_cine(3, 4, 21, 26))
    tokens = trained_ladder().encode(x, step=0.1, region=region)
    decoded = trained_ladder().decode_tokens(tokens)
    assert torch.equal(trained_ladder().decode_tokens(tokens.flip(1)), decoded.flip(4))
    for z in range(3):
        assert torch.equal(trained_ladder().decode_tokens(tokens[:, z : z + 1]), decoded[..., z : z + 1, :])


def test_a_member_of_a_batch_gives_the_tokens_and_pixels_that_it_gives_alone() -> None:
    x = as_input(smooth_cine(seed=1), smooth_cine(seed=2))
    tokens = trained_ladder().encode(x, step=0.1)
    decoded = trained_ladder().decode_tokens(tokens)
    for b in range(2):
        assert torch.equal(trained_ladder().encode(x[b : b + 1], step=0.1), tokens[b : b + 1])
        assert torch.equal(trained_ladder().decode_tokens(tokens[b : b + 1]), decoded[b : b + 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_images_of_any_floating_point_type_are_taken(dtype: torch.dtype) -> None:
    x = as_input(smooth_cine()).to(dtype)
    assert torch.equal(trained_ladder().encode(x, step=0.1), trained_ladder().encode(x.float(), step=0.1))


def test_a_ladder_of_another_precision_says_that_it_needs_float32() -> None:
    x = as_input(smooth_cine())
    tokens = fixed_ladder().encode(x, step=0.1)
    model = TiTok(tiny_config(layout="ladder")).to(torch.bfloat16)
    for call in (lambda: model.encode(x, step=0.1), lambda: model.decode_tokens(tokens)):
        with pytest.raises(ValueError, match=r"ladder .*float32"):
            call()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x[0], r"expected \(B, 1, H, W, D, T\)"),
        (lambda x: x[..., 0], r"expected \(B, 1, H, W, D, T\)"),
        (lambda x: x.expand(-1, 3, -1, -1, -1, -1), r"expected \(B, 1, H, W, D, T\)"),
        (lambda x: (255 * x).to(torch.uint8), "floating point"),
        (lambda x: x.masked_fill(x > 0.5, torch.nan), "NaN"),
        (lambda x: x.masked_fill(x > 0.5, torch.inf), "infinite"),
        (lambda x: 255 * x, r"expected \[0, 1\]"),
        (lambda x: x - 0.5, r"expected \[0, 1\]"),
        (lambda x: x[..., :0], "empty"),
        (lambda x: x[:0], "empty"),
    ],
)
def test_an_input_that_is_no_cine_is_refused(spoil: Callable[[Tensor], Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fixed_ladder().encode(spoil(as_input(smooth_cine())), step=0.1)


@pytest.mark.parametrize(
    "given", [{"ed": 0}, {"es": torch.tensor([1])}, {"keep_tokens": 4}, {"mask": torch.zeros(1, 24, 28, 2, 5)}]
)
def test_options_of_other_layouts_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="takes no ed, es, keep_tokens or mask"):
        fixed_ladder().encode(as_input(smooth_cine()), step=0.1, **given)


@pytest.mark.parametrize("given", [{}, {"psnr": 30.0, "step": 0.1}, {"psnr": -1.0}])
def test_no_target_two_targets_and_one_out_of_range_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"give exactly one of|expected a number above 0"):
        fixed_ladder().encode(as_input(smooth_cine()), **given)


@pytest.mark.parametrize("given", [{"psnr": 30.0}, {"step": 0.1}, {"region": Region(1, 1, 1, 1)}])
def test_a_model_of_another_layout_refuses_the_targets_of_a_ladder(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="are for layout ladder, but this model has layout frame"):
        tiny_model().encode(torch.rand(1, 1, 32, 32, 1, 2), **given)


def put(place: int, value: int, row: slice | int = slice(None)) -> Callable[[Tensor], Tensor]:
    """A change of one number of some rows."""

    def change(tokens: Tensor) -> Tensor:
        tokens[0, row, place] = value
        return tokens

    return change


def turned(tokens: Tensor) -> Tensor:
    """The last row with height and width exchanged."""
    tokens[0, -1, :2] = tokens[0, -1, :2].flip(0)
    return tokens


WRONG: list[tuple[Callable[[Tensor], Tensor], str]] = [
    (lambda t: t.float(), "expected torch.int64"),
    (lambda t: t.int(), "expected torch.int64"),
    (lambda t: t[0], r"expected \(D, 9"),
    (lambda t: t[None], r"expected \(D, 9"),
    (lambda t: t[..., :-1], r"expected \(D, 9"),
    (lambda t: t[..., :3], r"expected \(D, 9"),
    (lambda t: t[:, :0], "nothing to decode"),
    (put(0, 23), r"expected \(D, 9"),
    (put(0, 0), r"expected \(D, 9"),
    (put(0, 1 << 40), r"expected \(D, 9"),
    (put(2, -5), r"expected \(D, 9"),
    (put(3, 9), r"expected \(D, 9"),
    (put(2, 6, 1), "different H, W, T or R"),
    (turned, "different H, W, T or R"),
    (put(4, -1), "step index -1"),
    (put(4, 448), "step index 448 is out of range"),
    (put(5, 1 << 13), "region 8192 is out of range"),
    (put(HEAD, 127), "basis id 127 is out of range"),
    (put(-1, 1 << 26), "residual id 67108864 is out of range"),
    (put(-1, -2), "residual id -2 is out of range"),
]


@pytest.mark.parametrize(("spoil", "words"), WRONG)
def test_tokens_that_no_encoder_writes_are_refused(spoil: Callable[[Tensor], Tensor], words: str) -> None:
    tokens = fixed_ladder().encode(as_input(smooth_cine()), step=0.3).clone()
    fixed_ladder().decode_tokens(tokens)
    with pytest.raises(ValueError, match=words):
        fixed_ladder().decode_tokens(spoil(tokens))


def test_a_batch_of_cines_of_two_sizes_is_refused() -> None:
    one, two = (fixed_ladder().encode(as_input(smooth_cine(height=h, width=w)), step=0.3) for h, w in ((9, 8), (8, 9)))
    assert one.shape == two.shape
    with pytest.raises(ValueError, match="different H, W, T or R"):
        fixed_ladder().decode_tokens(torch.cat([one, two]))


@pytest.mark.parametrize("given", [{"grid": (2, 5)}, {"steps": 3}, {"realism": 0.5}, {"steps": 3, "realism": 0.5}])
def test_options_that_a_ladder_without_sampler_does_not_have_are_refused(given: dict[str, object]) -> None:
    tokens = fixed_ladder().encode(as_input(smooth_cine()), step=0.3)
    with pytest.raises(ValueError, match=r"grid|steps|realism|decoder"):
        fixed_ladder().decode_tokens(tokens, **given)


def test_the_layout_takes_tokens_apart_and_puts_them_together() -> None:
    layout = LadderLayout(6, 64, height=3, width=5, rank=2)
    rows, columns = layout.shape(4, 7)
    assert (rows, columns) == (4, HEAD + 6 + 2 * (7 + 15))
    tokens = np.random.default_rng(0).integers(0, 60, (4, columns))
    tokens[:, :4] = 3, 5, 7, 2
    assert layout.of(tokens) == layout and LadderLayout(6, 64).grid(tokens) == (4, 7)
    parts = layout.split(tokens, 4, 7)
    assert [part.shape for part in parts.values()] == [(4, 1), (4, 4), (4, 6), (4, 7, 2), (4, 2, 15)]
    np.testing.assert_array_equal(layout.join(parts), tokens)
    layout.check(tokens, 4, 7)
    assert layout.transmitted(tokens, 4, 7) == 4 * (6 + 14 + 30)
    assert LadderLayout(6, 64).transmitted(tokens, 4, 7) == 4 * (6 + 14 + 30)  # as the header of a file has it


def test_a_saved_ladder_gives_the_same_tokens_and_the_same_pixels(tmp_path: Path) -> None:
    model, x = trained_ladder(), as_input(smooth_cine(2, 4, 21, 26))
    model.save_pretrained(tmp_path)
    again = TiTok.from_pretrained(tmp_path)
    tokens = model.encode(x, psnr=33.0)
    assert torch.equal(again.encode(x, psnr=33.0), tokens)
    assert torch.equal(again.decode_tokens(tokens), model.decode_tokens(tokens))
    assert again.identity() == model.identity() and again.layout == model.layout


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("ladder", "context", "depth"), 3, r"model\.ladder\.context.*depth"),
        (("ladder", "context", "width"), 7, r"model\.ladder\.context\.width"),
        (("ladder", "refinement", "depth"), 3, r"model\.ladder\.refinement.*depth"),
        (("ladder", "refinement", "name"), "nothing", r"model\.ladder\.refinement"),
        (("ladder", "steps"), 3, r"model\.ladder.*steps"),
        (("decoder",), "titok", "layout is ladder and decoder is titok"),
    ],
)
def test_a_config_with_anything_unknown_is_refused(
    tmp_path: Path, keys: tuple[str, ...], value: object, words: str
) -> None:
    fixed_ladder().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    section = config["model"]
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        TiTok.from_pretrained(tmp_path)


def test_another_context_model_is_another_writer_and_another_refinement_only_another_decoder() -> None:
    base, seeds = fixed_ladder().identity(), fixed_ladder(1).identity()
    assert seeds.tokens_id != base.tokens_id and seeds.pixels_id != base.pixels_id
    model = TiTok(tiny_config(layout="ladder"))
    model.load_state_dict(fixed_ladder().state_dict())
    assert model.identity() == base
    with torch.no_grad():
        model.ladder.refinement.tail.bias += 1
    assert model.identity().tokens_id == base.tokens_id and model.identity().pixels_id != base.pixels_id


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_tokens_of_the_same_quality() -> None:
    x = as_input(smooth_cine(2, 4, 37, 53))
    model = TiTok(tiny_config(layout="ladder"))
    model.load_state_dict(trained_ladder().state_dict())
    model = model.eval().cuda()
    for target in ({"step": 0.1}, {"psnr": 33.0}, {"bytes_per_frame": 90.0}):
        tokens = model.encode(x.cuda(), **target).cpu()
        assert (tokens == trained_ladder().encode(x, **target)).float().mean() > 0.99
        assert rms(model.decode_tokens(tokens.cuda()).cpu(), trained_ladder().decode_tokens(tokens)) < 1e-3
