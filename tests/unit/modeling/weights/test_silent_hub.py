"""A Hub that does not answer costs seconds and ends in one line; one that answers slowly is waited for."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from modeling.conditioning.sam3 import load_encoder
from modeling.titok import TiTok
from modeling.weights import hub
from modeling.weights.start import start_model
from tests.hub import HUB_ID, LIMIT_S, Hub, running_hub, serve_tokenizer
from tests.tiny import tiny_config


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub(monkeypatch, tmp_path / "cache") as running:
        yield running


def refusal(load: object) -> str:
    """The error of a load, which has to come within a few seconds."""
    began = time.monotonic()
    with pytest.raises(FileNotFoundError) as error:
        load()  # type: ignore[operator]
    assert time.monotonic() - began < 10 * LIMIT_S
    return str(error.value)


def test_a_network_that_answers_nothing_is_given_up_within_a_minute() -> None:
    assert hub.ANSWER_SECONDS * len([hub.CONFIG, *hub.WEIGHTS]) < 60


@pytest.mark.parametrize("name", [hub.CONFIG, "model.safetensors"])
def test_a_silent_hub_ends_in_one_line_that_says_what_where_and_what_to_do(
    server: Hub, name: str, tmp_path: Path
) -> None:
    serve_tokenizer(server, tmp_path / "published")
    server.silent = {name}
    said = refusal(lambda: TiTok.from_pretrained(HUB_ID))
    for part in (HUB_ID, server.url, str(tmp_path / "cache"), "HF_HUB_OFFLINE", "scripts/fetch_weights.py", "folder"):
        assert part in said
    assert "\n" not in said


def test_a_recipe_whose_tokenizer_is_on_a_silent_hub_ends_in_that_line_too(server: Hub) -> None:
    server.silent = {hub.CONFIG}
    config = tiny_config("titok")
    config.tokenizer.init = HUB_ID
    assert "does not answer within 0.4 s" in refusal(lambda: start_model(config, None))


def test_the_features_of_sam3_do_not_wait_for_a_silent_hub_either(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def cached_only(weights: str, local_files_only: bool = False, **options: object) -> None:
        assert local_files_only
        raise OSError("not in the cache")

    models = SimpleNamespace(from_pretrained=cached_only)
    fake = SimpleNamespace(AutoConfig=models, Sam3Model=models, Sam3VisionModel=models)
    monkeypatch.setitem(sys.modules, "transformers", fake)  # type: ignore[arg-type]
    server.silent = {"model.safetensors"}
    said = refusal(lambda: load_encoder(HUB_ID, None))
    assert HUB_ID in said and "does not answer" in said and "HF_HUB_OFFLINE" in said


def test_a_host_that_refuses_the_connection_ends_in_that_line(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    assert "cannot be reached (ConnectError)" in refusal(lambda: TiTok.from_pretrained(HUB_ID))


def test_what_the_cache_holds_needs_no_answer(server: Hub, tmp_path: Path) -> None:
    serve_tokenizer(server, tmp_path / "published")
    first = TiTok.from_pretrained(HUB_ID)
    server.silent = set(server.files)
    again = TiTok.from_pretrained(HUB_ID)
    assert (first.tokenizer.latent_tokens == again.tokenizer.latent_tokens).all()


def test_a_slow_download_is_not_cut_off(server: Hub, tmp_path: Path) -> None:
    serve_tokenizer(server, tmp_path / "published")
    server.pause_s, server.pieces = LIMIT_S / 2, 6  # each file takes three times the limit
    assert TiTok.from_pretrained(HUB_ID).config.image_size == 32


def test_a_hub_that_does_not_have_the_file_is_not_called_silent(server: Hub) -> None:
    assert "has no config.json" in refusal(lambda: TiTok.from_pretrained(HUB_ID))
