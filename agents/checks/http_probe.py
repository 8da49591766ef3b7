"""I/O: asks a web server for one page. It is judged by its status alone, and a redirect is followed nowhere (C38)."""

from __future__ import annotations

import re

from agents.checks.answers import TOO_LONG, Answer, Failed, sample
from agents.checks.conversation import Conversation
from agents.checks.kinds import HttpProbe
from bridge import limits
from inventory.endpoints import Endpoint

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r?\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\ntransfer-encoding:[^\n]*chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_NO_BODY = (204, 304)


async def ask_http(talk: Conversation, probe: HttpProbe, target: Endpoint) -> Answer:
    request = (
        f"GET {probe.path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: meshbridge-check\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    )
    await talk.say(request.encode("ascii"))
    data, ended = b"", False
    while (status := _status_of(data, ended)) is None:
        more = await talk.read()
        data, ended = data + more, not more
    if not probe.accepts(status):
        raise Failed(f"it answered {status}")
    return Answer()


def _status_of(data: bytes, ended: bool) -> int | None:
    """The final status once the whole answer is there, None while more must be read.

    Raises:
        Failed: this can never become a good answer.
    """
    for _ in range(limits.CHECK_INTERIM_MAX + 1):
        first = _STATUS_LINE.match(data)
        if first is None:
            if ended or b"\n" in data or not b"HTTP/1.".startswith(data[:7]):
                raise Failed(f"it does not speak HTTP: {sample(data)}" if data else "it closed without an answer")
            return None
        end = _HEAD_END.search(data)
        if end is None:
            if ended:
                raise Failed("it closed in the middle of its headers")
            return None
        status = int(first[1])
        if status >= 200:
            return status if _is_whole(status, data[: end.end()], data[end.end() :], ended) else None
        if status == 101:
            raise Failed("it switched protocols")
        data = data[end.end() :]
    raise Failed(f"more than {limits.CHECK_INTERIM_MAX} interim answers")


def _is_whole(status: int, head: bytes, body: bytes, ended: bool) -> bool:
    length = _LENGTH.search(head)
    if status in _NO_BODY:
        return True
    if length is not None and len(head) + int(length[1]) > limits.CHECK_READ_MAX:
        raise Failed(TOO_LONG)
    if length is not None and len(body) >= int(length[1]):
        return True
    if _CHUNKED.search(head) and (b"\r\n" + body).endswith(_LAST_CHUNK):
        return True
    if ended and length is not None:
        raise Failed("it closed in the middle of its answer")
    return ended
