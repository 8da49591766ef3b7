"""I/O: taking a host out of service and waiting until nothing uses it: the operator's side of a drain.

The change is signed first; then the gateway that runs on this home is asked, about once a second, which streams the
host still has. What is left at the deadline is cut, unless the host is only to serve nothing new. This file never
decides that a stream may go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from agents.admin.client import call
from agents.estate import operate
from agents.operating.hosts import drain_host
from bridge import limits
from inventory.errors import Unavailable
from inventory.names import shown

_STREAMS_NAMED = 5


@dataclass(frozen=True)
class Drained:
    """How it ended for the streams that lived on."""

    cut: int = 0
    left: int = 0
    """Of a host that is drained of what it serves: those that go on."""


async def drain_and_wait(
    home: Path, host: str, *, deadline: float, reason: str, say: Callable[[str], None], serving_only: bool = False
) -> Drained:
    """Drains a host and waits.

    Args:
        deadline: seconds.
        serving_only: of what it serves; then nothing is cut.
        say: told in words what is waited for, when it changes.

    Raises:
        AnswerIsNo: there is no such host.
        Unavailable: the drain is recorded, but no gateway on this home can say whether streams are left.
    """
    async with operate(home) as operator:
        await drain_host(operator, host, reason, serving_only=serving_only)
    try:
        left = await _wait(home, host, deadline=deadline, say=say, serving_only=serving_only)
        if left == 0 or serving_only:
            return Drained(left=left)
        answer = await call(home, "cut", host=host, reason=f"drain deadline passed: {reason}")
        return Drained(cut=int(answer["cut"]))
    except Unavailable as exc:
        raise Unavailable(
            f"the drain of {host} is recorded and takes no new streams, but live ones cannot be seen: {exc.what}",
            where=exc.where,
            hint="run the command again when the gateway answers, or look at `meshbridge flows`",
        ) from None


async def _wait(home: Path, host: str, *, deadline: float, say: Callable[[str], None], serving_only: bool) -> int:
    """How many streams are left at the deadline."""
    said = ""
    was_empty = False
    streams: list[Mapping[str, Any]] = []
    with trio.move_on_after(deadline):
        while True:
            answer: Mapping[str, Any] = await call(home, "streams", host=host)
            streams = [s for s in answer["streams"] if not (serving_only and s["subject"] == f"host:{host}")]
            if not answer["online"]:
                say(f"{host} is not connected: it takes no streams through this gateway")
                return 0
            # Twice: a peer that had not heard of the drain yet may have opened one more.
            if not streams and was_empty:
                return 0
            was_empty = not streams
            line = _describe(host, streams)
            if streams and line != said:
                say(line)
                said = line
            await trio.sleep(limits.DRAIN_NOTICE if was_empty else limits.DRAIN_LOOK)
    return len(streams)


def _describe(host: str, streams: list[Mapping[str, Any]]) -> str:
    named = [shown(f"{s.get('subject', '?')} to {s.get('service', '?')}")[1:-1] for s in streams[:_STREAMS_NAMED]]
    more = f" and {len(streams) - len(named)} more" if len(streams) > len(named) else ""
    return f"{host} has {len(streams)} live streams: {', '.join(named)}{more}"
