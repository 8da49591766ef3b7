"""I/O: the page of metrics and two answers for machines over HTTP: GET /metrics, /livez, /readyz, and nothing else.

One request per connection, at most METRICS_REQUEST_MAX bytes, everything within METRICS_TIMEOUT; at most
METRICS_CONNECTIONS at once. It never reads a body, never writes anything but the three pages, and what one
connection does never ends another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import trio
from trio.abc import Listener

from bridge import limits
from inventory.endpoints import Endpoint
from inventory.errors import Unavailable
from inventory.names import shown

_TEXT = "text/plain; charset=utf-8"
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Pages:
    """What is shown.

    Args:
        metrics: the page in Prometheus text format.
        ready: None when the node serves, otherwise why not (one line).
    """

    metrics: Callable[[], bytes]
    ready: Callable[[], str | None]


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str = _TEXT

    def encoded(self, *, with_body: bool) -> bytes:
        allow = "Allow: GET, HEAD\r\n" if self.status == 405 else ""
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n{allow}Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii") + (self.body if with_body else b"")


async def serve_metrics(
    endpoint: Endpoint,
    pages: Pages,
    *,
    report_error: Callable[[BaseException], None],
    task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serves until cancelled; reports started with the endpoint it is bound to.

    Args:
        report_error: told of what should not happen in one connection; the connection is closed, the rest goes on.

    Raises:
        Unavailable: the endpoint cannot be bound.
    """
    try:
        listeners = await trio.open_tcp_listeners(endpoint.port, host=endpoint.host)
    except (OSError, ValueError) as exc:
        raise Unavailable(
            f"metrics cannot listen: {shown(str(exc))}", where=str(endpoint), hint="give another --metrics ADDR:PORT"
        ) from None
    address = listeners[0].socket.getsockname()
    served: list[Listener[trio.SocketStream]] = list(listeners)
    free = trio.CapacityLimiter(limits.METRICS_CONNECTIONS)
    async with trio.open_nursery() as connections:
        handle = partial(_guarded, pages=pages, free=free, report_error=report_error)
        task_status.started(Endpoint(address[0], address[1]))
        await trio.serve_listeners(handle, served, handler_nursery=connections)
    raise AssertionError("serve_listeners returned")


async def _guarded(
    stream: trio.SocketStream,
    *,
    pages: Pages,
    free: trio.CapacityLimiter,
    report_error: Callable[[BaseException], None],
) -> None:
    try:
        free.acquire_nowait()
    except trio.WouldBlock:
        await trio.aclose_forcefully(stream)
        return
    try:
        with trio.move_on_after(limits.METRICS_TIMEOUT):
            await _serve_one(stream, pages)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the reader went away
    except Exception as exc:
        report_error(exc)
    finally:
        free.release()
        await trio.aclose_forcefully(stream)


async def _serve_one(stream: trio.SocketStream, pages: Pages) -> None:
    head = b""
    while b"\r\n\r\n" not in head and len(head) <= limits.METRICS_REQUEST_MAX:
        more = await stream.receive_some(4096)
        if not more:
            return
        head += more
    method, answer = _answer_to(head, pages)
    await stream.send_all(answer.encoded(with_body=method != b"HEAD"))
    await stream.send_eof()
    # Closing with unread bytes would reset the connection and could take the answer with it.
    while await stream.receive_some(4096):
        pass


def _answer_to(head: bytes, pages: Pages) -> tuple[bytes, _Answer]:
    end = head.find(b"\r\n\r\n")
    if end < 0 or end > limits.METRICS_REQUEST_MAX:
        return b"", _Answer(431, b"request too large\n")
    words = head[: head.index(b"\r\n")].split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        return b"", _Answer(400, b"not an HTTP/1.1 request\n")
    method, path = words[0], words[1].partition(b"?")[0]
    if path not in (b"/metrics", b"/livez", b"/readyz"):
        return method, _Answer(404, b"try /metrics, /livez or /readyz\n")
    if method not in (b"GET", b"HEAD"):
        return method, _Answer(405, b"only GET\n")
    if path == b"/metrics":
        return method, _Answer(200, pages.metrics(), _PROMETHEUS)
    if path == b"/livez":
        return method, _Answer(200, b"ok\n")
    reason = pages.ready()
    return method, _Answer(200, b"ok\n") if reason is None else _Answer(503, reason.encode() + b"\n")
