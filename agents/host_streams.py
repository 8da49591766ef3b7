"""I/O: which streams a host has, and an end to them, as a gateway can tell: it asks the host's agent; of a host that it
reaches itself, its own data workers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agents.control.channel import ControlEnded
from agents.control.server import ControlServer
from agents.reach.reaching import Reaching
from agents.stream_questions import StreamQuestions
from inventory.errors import Unavailable
from inventory.health import host_of

_CUT = "cut by an operator"


class HostStreams:
    def __init__(self, control: ControlServer, reaching: Reaching, questions: StreamQuestions) -> None:
        self._control = control
        self._reaching = reaching
        self._questions = questions

    async def ask(self, host: str, *, cut: bool, reason: str = _CUT) -> dict[str, Any]:
        """The answer to the command `streams` or `cut`. Raises Unavailable."""
        if self._reaching.is_here(host) is not None:
            return await self._behind(host, cut, reason)
        try:
            answer = await (self._control.cut(host, reason) if cut else self._control.streams(host))
        except ControlEnded as exc:
            raise Unavailable(exc.what) from None
        except Unavailable:
            if self._control.holds(host) or cut:
                raise
            return {"online": False, "streams": []}
        return {"online": True, "cut": answer.cut, "streams": [msgspec.to_builtins(f) for f in answer.streams]}

    async def _behind(self, host: str, cut: bool, reason: str) -> dict[str, Any]:
        flows = await (self._questions.cut(reason, host) if cut else self._questions.live())
        mine = [flow for flow in flows if cut or host_of(flow.instance) == host]
        return {"online": True, "cut": len(mine) if cut else 0, "streams": [msgspec.to_builtins(f) for f in mine]}
