"""scripts/fit_sequence.py on tiny shards: the model that it writes, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from modeling.titok import TiTok
from scripts import evaluate, fit_sequence
from tests.shards import made_up, make_shards
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage 1 in `one`, three made-up cines in `wds`, and the fitted model in `fitted`."""
    folder = tmp_path_factory.mktemp("fit")
    stage1 = tiny_model("titok", conditioning="resnet18")
    stage1.taught_by = ["a teacher"]
    stage1.save_pretrained(folder / "one")
    make_shards(folder / "wds", [made_up(number, 2 + number % 2, 4 + number) for number in range(1, 4)])
    fit_sequence.main(arguments(folder, "fitted", "--num_tokens", "4"))
    return folder


def arguments(folder: Path, output: str, *more: str) -> list[str]:
    places = ["--model", str(folder / "one"), "--data", str(folder / "wds"), "--output_dir", str(folder / output)]
    return [*places, "--device", "cpu", *more]


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    with pytest.raises(SystemExit):
        fit_sequence.main(argv)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return line


def test_the_fitted_model_has_the_tokenizer_and_the_teachers_of_stage_1(folder: Path) -> None:
    one, fitted = TiTok.from_pretrained(folder / "one"), TiTok.from_pretrained(folder / "fitted")
    weights = fitted.state_dict()
    shared = {key: value for key, value in one.state_dict().items() if key.startswith(("tokenizer.", "adapters."))}
    assert all(torch.equal(weights[key], value) for key, value in shared.items())
    assert set(weights) - set(shared) == {
        f"resampler.{name}" for name in ("mean", "basis", "index", "levels", "points")
    }
    assert fitted.config.sequence.method == "harmonic" and fitted.config.sequence.num_tokens == 4
    assert fitted.taught_by == one.teachers() and "a teacher" in fitted.taught_by
    assert fitted.training_record["cines"] == 3 and fitted.training_record["first_weights"] == "one"
    assert fitted.encode(torch.rand(1, 1, 32, 32, 2, 5)).shape == (1, 4)


def test_it_is_evaluated_with_all_tokens_and_with_a_prefix(folder: Path) -> None:
    evaluate.main(
        ["--model", str(folder / "fitted"), "--data", str(folder / "wds"), "--split", "train", "--limit", "1",
         "--output_dir", str(folder / "report"), "--keep_tokens", "1", "4", "--device", "cpu"]
    )  # fmt: skip
    models = json.loads((folder / "report" / "summary.json").read_text())["models"]
    assert [models[name]["mean"]["tokens"] for name in ("fitted, 1 tokens", "fitted, 4 tokens")] == [1, 4]


def test_the_same_command_again_writes_the_same_model(folder: Path) -> None:
    before = (folder / "fitted" / "model.safetensors").read_bytes()
    fit_sequence.main(arguments(folder, "fitted", "--num_tokens", "4"))
    assert (folder / "fitted" / "model.safetensors").read_bytes() == before


def test_errors_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no fitted model" in refused(arguments(folder, "one"), capsys)
    assert "2 patients of the split train, expected 3 or more" in refused(
        arguments(folder, "other", "--limit", "2"), capsys
    )
    assert "0 patients of the split val" in refused(arguments(folder, "other", "--split", "val"), capsys)
    assert "--num_tokens is 0" in refused(arguments(folder, "other", "--num_tokens", "0"), capsys)
    assert "model.sequence.num_tokens" in refused(arguments(folder, "other", "--num_tokens", "5000"), capsys)
    assert "no such folder" in refused([*arguments(folder, "other"), "--model", str(folder / "nothing")], capsys)
    again = [*arguments(folder, "other"), "--model", str(folder / "fitted")]
    assert "has layout sequence and decoder titok: expected layout frame" in refused(again, capsys)
    assert not (folder / "other").exists()
