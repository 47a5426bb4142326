"""A Hugging Face Hub on this machine, for the tests of what is downloaded."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from huggingface_hub import constants

from modeling.weights import hub
from tests.tiny import tiny_model

HUB_ID = "owner/name"
COMMIT = "0" * 40
LIMIT_S = 0.4


class Hub(ThreadingHTTPServer):
    """A Hub on this machine.

    Args:
        files: what it has, by name; a name in `silent` is accepted and never answered.
        revisions: branches and tags with their commits; each commit has the same files.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.silent: set[str] = set()
        self.revisions = {"main": COMMIT}
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
        revision, known = self.path.split("/")[-2], self.server.revisions
        commit = known.get(revision, revision if revision in known.values() else None)
        body = self.server.files.get(name) if commit else None
        self.send_response(404 if body is None else 200)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound" if commit else "RevisionNotFound")
        self.send_header("X-Repo-Commit", commit or COMMIT)
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


@contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A Hub that the client of the Hub takes for the real one, with an own cache."""
    running = Hub()
    Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "ANSWER_SECONDS", LIMIT_S)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield running
    running.over.set()
    running.shutdown()
    running.server_close()


def serve_tokenizer(server: Hub, folder: Path) -> None:
    """Publish a tiny tokenizer on the Hub."""
    tiny_model("titok").save_tokenizer(folder)
    server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
