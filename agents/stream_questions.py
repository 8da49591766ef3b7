"""I/O: questions about live streams to all data workers of a node, and their answers as one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import trio

from agents.data_workers import DataWorkers
from agents.supervisor import DataWorkerProcess
from agents.workers import messages as m
from bridge import limits
from bridge.flows import Flow
from inventory.errors import Unavailable


class StreamQuestions:
    """Owner of the questions that wait, by number and worker."""

    def __init__(self, workers: DataWorkers) -> None:
        self._workers = workers
        self._ids = count(1)
        self._waiting: dict[tuple[int, DataWorkerProcess], trio.MemorySendChannel[m.StreamList]] = {}

    async def live(self) -> tuple[Flow, ...]:
        """Records, so far, of the streams that are open. Raises Unavailable."""
        return await self._ask(lambda number: m.ListStreams(id=number))

    async def cut(self, reason: str, host: str | None = None) -> tuple[Flow, ...]:
        """End every open stream, or those to one agentless host; their records. Raises Unavailable."""
        return await self._ask(lambda number: m.CutAll(id=number, reason=reason, host=host))

    async def _ask(self, question: Callable[[int], m.ToWorker]) -> tuple[Flow, ...]:
        """What all of them say. One that dies meanwhile has no streams any more."""
        number = next(self._ids)
        asked = [worker for worker in self._workers if worker.tell(question(number))]
        receivers = []
        for worker in asked:
            self._waiting[number, worker], receive = trio.open_memory_channel[m.StreamList](1)
            receivers.append(receive)
        answers: list[m.StreamList] = []
        gone = 0
        try:
            with trio.move_on_after(limits.WORKER_START_TIMEOUT):
                for receive in receivers:
                    try:
                        answers.append(await receive.receive())
                    except trio.EndOfChannel:
                        gone += 1
        finally:
            for worker in asked:
                self._waiting.pop((number, worker), None)
        if asked and gone == len(asked):
            raise Unavailable("the data workers ended", hint="see the agent's log")
        if not asked or len(answers) + gone < len(asked):
            raise Unavailable("a data worker does not answer", hint="see the agent's log")
        return tuple(sorted((flow for answer in answers for flow in answer.streams), key=lambda flow: flow.ts))

    def answered(self, worker: DataWorkerProcess, message: m.StreamList) -> None:
        waiting = self._waiting.pop((message.id, worker), None)
        if waiting is not None:
            waiting.send_nowait(message)

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        for key in [key for key in self._waiting if key[1] is worker]:
            self._waiting.pop(key).close()
