"""The benchmarks of tokenizer and decoder: the published form is the same math, the table says what was compared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.layers.transformer import Block
from scripts import benchmark
from scripts.benchmarks import decode, tokenizer
from scripts.benchmarks.shared.published import Published
from scripts.benchmarks.shared.timing import gflop
from tests.tiny import TINY, tiny_model

SMALL: dict[str, Any] = {
    "image_size": 32,
    "vit_enc_model_size": TINY,
    "vit_dec_model_size": TINY,
    "num_latent_tokens": 8,
}


@pytest.mark.parametrize("later", [{}, {"finetune_decoder": False, "is_legacy": False}])
def test_the_published_form_gives_our_tokens_and_our_images(later: dict[str, Any]) -> None:
    torch.manual_seed(0)
    ours = tokenizer.Tokenizer(tokenizer.VQModelConfig(**SMALL, **later)).eval()
    torch.nn.init.normal_(ours.quantize.embedding.weight)
    published, pixels = Published(ours), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        ids = ours.quantize_latents(ours.latents(pixels)).indices
        assert torch.equal(published.encode(pixels), ids) and len(ids.unique()) > 1
        torch.testing.assert_close(published.decode(ids), ours.decode(ours.quantize.lookup(ids)), rtol=0, atol=1e-4)


def test_attention_is_among_the_operations_counted() -> None:
    q = torch.randn(1, 2, 50, 16)
    counted = gflop(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert counted == pytest.approx(2 * 2 * 2 * 50 * 50 * 16 / 1e9)


def test_some_rows_of_a_block_are_those_of_all_its_rows() -> None:
    torch.manual_seed(0)
    block, x = Block(32, 2), torch.randn(3, 10, 32)
    for rows in (slice(None), slice(7, None), slice(1, 7)):
        torch.testing.assert_close(block(x, rows), block(x)[:, rows])


def test_the_table_has_every_side_with_its_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(tokenizer.SIZES, "s128", {**SMALL, "finetune_decoder": False, "is_legacy": False})
    output = tmp_path / "tokenizer.json"
    options = ["--variants", "s128", "--batch", "2", "--rounds", "1", "--device", "cpu", "--output", str(output)]
    benchmark.main(["tokenizer", *options])
    rows = json.loads(output.read_text())["results"]
    sides = [(row["work"], row["side"]) for row in rows]
    assert sides == [(work, side) for work in ("encode", "decode") for side in ("published", "fp32", "bf16")]
    assert all(row["ratio"] == pytest.approx(row["ms"] / rows[3 * (i // 3)]["ms"]) for i, row in enumerate(rows))
    assert rows[1]["equal_tokens"] == 1 and 0 < rows[1]["gflop"] < rows[0]["gflop"]
    assert "equal tokens" in capsys.readouterr().out


def test_decoding_is_timed_a_frame_for_a_trained_model_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    output = tmp_path / "decode.json"
    options = [
        "--model",
        str(tmp_path / "model"),
        "--phases",
        "4",
        "--rounds",
        "1",
        "--device",
        "cpu",
        "--steps",
        "1",
        "3",
    ]
    benchmark.main(["decode", *options, "--dtype", "fp32", "--output", str(output)])
    one, three = json.loads(output.read_text())["results"]
    assert one["ms"] > 0 and three["gflop"] == pytest.approx(4 * one["gflop"])  # realism 1 adds three steps to the mean
    assert "ms a frame" in capsys.readouterr().out
    assert decode.random_model("S", 16, 64).dit is not None


def test_a_model_of_whole_cines_decodes_the_phases_of_the_command_and_a_ladder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for layout in ("sequence", "ladder"):
        tiny_model(layout=layout).save_pretrained(tmp_path / layout)
    options = ["--rounds", "1", "--device", "cpu", "--dtype", "fp32", "--output", str(tmp_path / "decode.json")]
    gflop = []
    for phases in (2, 4):
        benchmark.main(["decode", "--model", str(tmp_path / "sequence"), "--phases", str(phases), *options])
        gflop.append(phases * json.loads((tmp_path / "decode.json").read_text())["results"][0]["gflop"])
    assert gflop[1] > 1.5 * gflop[0]  # the work grows with the phases
    with pytest.raises(SystemExit):
        benchmark.main(["decode", "--model", str(tmp_path / "ladder"), *options])
    assert "use scripts/benchmark.py ladder" in capsys.readouterr().err
