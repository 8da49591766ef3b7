"""I/O: an HTTP server that answers what no honest Consul would, one way at a time, and remembers what it was asked."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

Answer = Callable[["Handler"], None]


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def ends_early(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[")
    handler.close_connection = True


def never_ends(handler: Handler) -> None:
    """As much as anybody takes."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 1024 * 1024)


def hangs(handler: Handler) -> None:
    handler.server.released.wait()


class Handler(BaseHTTPRequestHandler):
    server: HostileServer

    def _any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(self.requestline)
        self.server.headers.append(dict(self.headers))
        try:
            self.server.answer(self)
        except OSError:  # the client had enough of it
            self.close_connection = True

    do_GET = do_PUT = do_DELETE = do_POST = _any

    def log_message(self, *_: object) -> None:
        pass


class HostileServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = says(200)
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> HostileServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
