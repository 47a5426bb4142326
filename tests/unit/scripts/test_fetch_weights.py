"""Fetching ahead says what was got and where it lies, or in one line why not."""

import sys

import pytest

from modeling.config import ModelConfig
from scripts import fetch_weights


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch_weights.py", *arguments])
    fetch_weights.main()


def test_a_recipe_that_starts_from_other_weights_needs_nothing() -> None:
    hub_id = ModelConfig().tokenizer.init
    assert fetch_weights.needed(ModelConfig(), None) == [(hub_id, None)]
    assert fetch_weights.needed(ModelConfig(), "stage1/checkpoint_last.pth") == []
    random = ModelConfig()
    random.tokenizer.init = "random"
    assert fetch_weights.needed(random, None) == []


def test_what_a_recipe_needs_is_named_with_its_size_and_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "config=configs/demo/stage1.yaml")
    said = capsys.readouterr().out
    assert "configs/demo/titok_mini: model.safetensors, 4 MB, 32 tokens of 1024 codes, 128 px; in " in said
    run(monkeypatch, "config=configs/demo/stage2.yaml")
    assert "nothing to download" in capsys.readouterr().out


def test_what_cannot_be_had_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "model.tokenizer.init=not/an/id")
    assert "error: not/an/id: no such folder" in capsys.readouterr().err
