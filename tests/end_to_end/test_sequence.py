"""The layout `sequence` as users train it: a resampler on stage 1, then a DiT on its frozen tokens."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling.titok import TiTok
from scripts import evaluate
from tests.training import STAGE1, STAGE2, curve, train

SEQUENCE = """  layout: sequence
  sequence: {num_tokens: 6, levels: [8, 8], width: 32, num_layers: 1, num_heads: 2}
"""
STACKS = "dataset: {unit: stack, phases: 3, workers: 0}"


def on_cines(recipe: str, losses: str, trainable: str) -> str:
    """A tiny recipe on stacks, in layout `sequence`, with other losses and other parts that train."""
    kept = recipe.split("losses:")[0].replace("dataset: {unit: slice, phases: 4, workers: 0}", STACKS)
    model, rest = kept.split("  adapters:")
    training = f"{{trainable: {trainable}, max_steps: 4, global_batch_size: 4, keep_tokens: [2, 6], log_every: 1}}"
    return f"{model}{SEQUENCE}  adapters:{rest}losses: {losses}\ntraining: {training}\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, phantom_shards: Path) -> Path:
    """Folders `one`, `sequence` with the tokenizer's own decoder, and `dit` on its tokens."""
    folder = tmp_path_factory.mktemp("sequence")
    recipes = {
        "one": STAGE1,
        "sequence": on_cines(STAGE1, "{reconstruction: {}, resampling: {}}", '["resampler.*"]'),
        "dit": on_cines(STAGE2, "{flow: {}, pixel: {}}", '["dit.*"]').replace(
            "channels: 4}", "channels: 4, draft: true}"
        ),
    }
    before = None
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
        more = [f"experiment.init_weight={before}"] if before else []
        done = train(folder, name, phantom_shards, name, *more)
        assert done.returncode == 0, done.stderr
        before = name
    return folder


def test_only_the_resampler_moves_and_the_dit_leaves_it_as_it_is(trained: Path) -> None:
    one, sequence, dit = (load_file(trained / name / "model.safetensors") for name in ("one", "sequence", "dit"))
    assert all(torch.equal(sequence[key], value) for key, value in one.items())
    frozen = [key for key in dit if not key.startswith("dit.")]
    assert any(key.startswith("resampler.") for key in frozen)
    assert all(torch.equal(dit[key], sequence[key]) for key in frozen)
    assert len(curve(trained / "sequence", "resampling")) == 4 and curve(trained / "sequence", "perplexity")


def test_whole_cines_are_scored_at_the_bits_of_six_tokens_and_at_a_prefix(trained: Path, phantom_shards: Path) -> None:
    model = TiTok.from_pretrained(trained / "dit")
    assert model.encode(torch.rand(2, 1, 32, 32, 3, 4)).shape == (2, 6)
    folders = [str(trained / name) for name in ("one", "dit")]
    evaluate.main(
        ["--model", *folders, "--data", str(phantom_shards), "--split", "val", "--output_dir", str(trained / "report"),
         "--keep_tokens", "2", "6", "--device", "cpu", "--sweep", "--steps", "2", "--realism", "1", "--limit", "1"]
    )  # fmt: skip
    models = json.loads((trained / "report" / "summary.json").read_text())["models"]
    assert list(models) == ["one, 2 tokens", "one, 6 tokens", "dit, 2 tokens", "dit, 6 tokens"]
    assert [models[name]["mean"]["tokens"] for name in list(models)[2:]] == [2, 6]
    assert models["dit, 6 tokens"]["mean"]["bits"] < models["one, 2 tokens"]["mean"]["bits"]
    assert len(json.loads((trained / "report" / "sweep.json").read_text())["rows"]) == 2


def test_a_cache_of_frames_tokens_is_refused_where_the_model_sends_cines(trained: Path, phantom_shards: Path) -> None:
    done = train(trained, "dit", phantom_shards, "cached", "experiment.init_weight=sequence", "dataset.tokens=nowhere")
    assert done.returncode == 1 and "dataset.tokens holds tokens of frames" in done.stderr
