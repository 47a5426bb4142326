"""A plain web server on this machine, for the tests of shards behind a URL."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """A server that knows no ranges, counts what it sends, and misbehaves on demand."""

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        self.server.asked.append(name)  # type: ignore[attr-defined]
        ill = self.server.ill.get(name)  # type: ignore[attr-defined]
        if ill is None:
            super().do_GET()
            return
        if ill == "silent":
            self.server.done.wait(20)  # type: ignore[attr-defined]
            return
        body = (Path(self.directory) / name).read_bytes()
        if ill == "error":
            self.send_error(503)
            return
        self.send_response(200)
        if ill != "endless":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if ill == "endless":
            body = body + bytes(1 << 20)
        self.wfile.write(body if ill == "endless" else body[: len(body) // 2])
        if ill == "stalled":
            self.server.done.wait(20)  # type: ignore[attr-defined]
        while ill == "dripping" and not self.server.done.wait(0.02):  # type: ignore[attr-defined]
            self.wfile.write(b"x")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[ThreadingHTTPServer]:
    """A server of the files of a folder: `url`; names `asked` for; `ill`, name -> how it misbehaves."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    running.daemon_threads = True
    running.asked, running.ill, running.done = [], {}, threading.Event()  # type: ignore[attr-defined]
    running.url = f"http://127.0.0.1:{running.server_address[1]}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    running.done.set()  # type: ignore[attr-defined]
    running.shutdown()
    running.server_close()
