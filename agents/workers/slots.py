"""I/O: a data worker's part in the limits of instances: it asks its supervisor for a slot before it connects to one
that has a limit, and says what became of it. The supervisor counts for all workers (`agents.governors`).

Streams to instances without a limit never come here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import NoReturn

import trio

from agents.workers import messages as m
from agents.workers.channel import Channel
from agents.workers.live import LiveFlow
from inventory.errors import Unavailable
from inventory.model import Instance

Answered = Callable[[str | None], None]
"""Called with None when the slot is there, else with why it is not."""
_Said = m.SlotAsked | m.SlotUsed | m.SlotLeft


class Busy(Unavailable):
    """The instance has all that it takes. It is as well as before, and nobody is to leave it alone for this."""


class Slots:
    """Wishes and slots of one worker, by number. What is said goes out in the order in which it was said."""

    def __init__(self, channel: Channel[m.FromWorker, m.ToWorker]) -> None:
        self._channel = channel
        self._numbers = count(1)
        self._waiting: dict[int, tuple[LiveFlow, Answered]] = {}
        self._unsaid: deque[_Said] = deque()
        self._news = trio.Event()

    async def run(self) -> NoReturn:
        """Tell the supervisor, until cancelled."""
        while True:
            while self._unsaid:
                await self._channel.send(self._unsaid.popleft())
            self._news = trio.Event()
            await self._news.wait()

    def _say(self, message: _Said) -> None:
        self._unsaid.append(message)
        self._news.set()

    def ask(self, flow: LiveFlow, instance: Instance, answered: Answered) -> None:
        """A slot for this flow; it is `flow.slot` from now on, and `ended` takes the wish back."""
        number = flow.slot = next(self._numbers)
        flow.waits = True
        self._waiting[number] = (flow, answered)
        self._say(
            m.SlotAsked(
                id=number,
                instance=instance.id,
                service=instance.service,
                caller=str(flow.subject),
                max_streams=instance.max_streams,
                max_rate=instance.max_rate,
            )
        )

    async def take(self, flow: LiveFlow, instance: Instance) -> int:
        """The number of a slot, which is the caller's to end: the flow's own is 0 again. Raises Busy."""
        done = trio.Event()
        refusals: list[str | None] = []

        def answered(refusal: str | None) -> None:
            refusals.append(refusal)
            done.set()

        self.ask(flow, instance, answered)
        number = flow.slot
        try:
            await done.wait()
        except trio.Cancelled:
            if flow.slot == number:
                flow.slot = 0
                self.ended(number, rest=False)
            raise
        flow.slot = 0
        if refusals[0] is not None:
            raise Busy(refusals[0])
        return number

    def given(self, number: int) -> None:
        self._answer(number, None)

    def refused(self, number: int, reason: str) -> None:
        self._answer(number, reason)

    def _answer(self, number: int, refusal: str | None) -> None:
        flow, answered = self._waiting.pop(number, (None, None))
        if flow is None or answered is None:
            return  # it does not wait any longer, which has been said
        flow.waits = False
        if refusal is not None:
            flow.slot = 0
        answered(refusal)

    def connected(self, number: int) -> None:
        self._say(m.SlotUsed(id=number, connected=True))

    def failed(self, number: int) -> None:
        """The connect failed; the slot is gone with it."""
        self._say(m.SlotUsed(id=number, connected=False))

    def ended(self, number: int, *, rest: bool) -> None:
        """Of a stream, or of a wish: then whoever waits for it is told."""
        self._say(m.SlotLeft(id=number, rest=rest))
        flow, answered = self._waiting.pop(number, (None, None))
        if flow is not None and answered is not None:
            flow.waits = False
            answered("it is not wanted any more")
