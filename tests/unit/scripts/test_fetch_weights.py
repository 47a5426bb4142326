"""Fetching ahead says what was got and where it lies, or in one line why not."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from modeling.config import ModelConfig
from modeling.weights import hub
from scripts import fetch_weights
from scripts.recipe import RunConfig
from tests.hub import HUB_ID, Hub, running_hub, serve_tokenizer
from utils.config.recipe import parse

COMMITS = ("3f9c2a" + "b" * 34, "1" * 20 + "e" + "2" * 19, "0" * 40)  # the last two are numbers in YAML


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as running:
        serve_tokenizer(running, tmp_path / "published")
        yield running


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


def test_the_weights_of_a_conditioning_and_of_a_loss_are_fetched_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[object] = []
    monkeypatch.setattr(fetch_weights.sam3, "load_encoder", lambda *given: loaded.append(given))
    monkeypatch.setattr(fetch_weights, "build_objective", lambda losses: loaded.append(losses))
    lpips = "losses={pixel: {}, lpips: {net: vgg}}"
    run(monkeypatch, "config=configs/demo/stage2.yaml", "model.conditioning={name: sam3, revision: v1}", lpips)
    assert [loaded[0], *loaded[1]] == [("facebook/sam3", "v1"), "lpips"]
    said = capsys.readouterr().out
    assert "facebook/sam3" in said and "losses.lpips" in said and "nothing to download" not in said


def test_what_cannot_be_had_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "model.tokenizer.init=not/an/id")
    assert "error: not/an/id: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("revision", [None, "v1"])
def test_the_commit_of_a_branch_or_tag_is_named_with_the_line_that_pins_it(
    server: Hub,
    commit: str,
    revision: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    server.revisions = {"main" if revision is None else revision: commit}
    asked = [] if revision is None else [f"model.tokenizer.revision={revision}"]
    run(monkeypatch, f"model.tokenizer.init={HUB_ID}", *asked)
    said = capsys.readouterr().out
    assert f"{'the main branch' if revision is None else 'revision v1'} is commit {commit} today" in said
    (line,) = [line for line in said.splitlines() if line.startswith("    revision:")]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model:\n  tokenizer:\n    init: {HUB_ID}\n{line}\n")
    assert parse(RunConfig, [f"config={recipe}", "experiment.output_dir=unused"]).model.tokenizer.revision == commit
    server.revisions = {"main": "f" * 40, "v1": "f" * 40, "pinned": commit}  # the branch goes on
    run(monkeypatch, f"config={recipe}")
    said = capsys.readouterr().out
    assert f"commit {commit}, set by model.tokenizer.revision of the recipe" in said and "    revision:" not in said


def test_the_weights_are_those_of_the_commit_of_the_config_even_if_the_branch_moves(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    fetch = hub._fetch

    def recorded(source: str, name: str, revision: str | None, cache_dir: str | None) -> str:
        asked.append((name, revision))
        return fetch(source, name, revision, cache_dir)

    monkeypatch.setattr(hub, "_fetch", recorded)
    run(monkeypatch, f"model.tokenizer.init={HUB_ID}")
    assert asked == [("config.json", None), ("model.safetensors", "0" * 40)]


@pytest.mark.parametrize("offline", [False, True])
def test_a_revision_that_does_not_exist_is_one_line_that_names_it(
    server: Hub, offline: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(SystemExit):
        run(monkeypatch, f"model.tokenizer.init={HUB_ID}", "model.tokenizer.revision=v7")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {HUB_ID}: ") and "revision 'v7'" in line
    assert ("HF_HUB_OFFLINE" if offline else "give a branch, tag or commit that exists") in line


def test_a_local_folder_has_no_commit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, "config=configs/demo/stage1.yaml")
    assert "commit" not in capsys.readouterr().out
