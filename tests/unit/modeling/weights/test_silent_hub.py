"""A Hub that does not answer costs seconds and ends in one line; one that answers slowly is waited for."""

import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from modeling.conditioning.sam3 import load_encoder
from modeling.titok import TiTok
from modeling.weights import hub
from modeling.weights.start import start_model
from tests.tiny import tiny_config, tiny_model

HUB_ID = "owner/name"
COMMIT = "0" * 40
LIMIT_S = 0.4


class Hub(ThreadingHTTPServer):
    """A Hub on this machine.

    Args:
        files: what it has, by name; a name in `silent` is accepted and never answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.silent: set[str] = set()
        self.pause_s, self.pieces, self.over = 0.0, 1, Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A reader that has seen enough hangs up, which is no error."""


class Answer(BaseHTTPRequestHandler):
    """Gives a file in pieces, with a pause before each."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        name = self.path.rsplit("/", 1)[1]
        if name in self.server.silent:
            self.server.over.wait(30)
            return
        body = self.server.files.get(name)
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        size = -(-len(body or b"") // self.server.pieces)
        for start in range(0, len(body or b"") if with_body else 0, max(size, 1)):
            time.sleep(self.server.pause_s)
            self.wfile.write((body or b"")[start : start + size])
            self.wfile.flush()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    running = Hub()
    Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ANSWER_SECONDS", LIMIT_S)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield running
    running.over.set()
    running.shutdown()
    running.server_close()


def serve_tokenizer(server: Hub, folder: Path) -> None:
    tiny_model("titok").save_tokenizer(folder)
    server.files = {path.name: path.read_bytes() for path in folder.iterdir()}


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
