"""I/O: sockets that a worker is to join to a service (`meshbridge dial`), until it says what became of them."""

from __future__ import annotations

import socket
from itertools import count

import trio

from agents.data_workers import DataWorkers
from agents.supervisor import DataWorkerProcess
from agents.workers import messages as m
from bridge import limits
from inventory.errors import AnswerIsNo, Unavailable
from inventory.names import ServiceName


class Adoptions:
    """Questions to workers, by number."""

    def __init__(self, workers: DataWorkers) -> None:
        self._workers = workers
        self._ids = count(1)
        self._waiting: dict[int, tuple[DataWorkerProcess, trio.MemorySendChannel[m.Adopted]]] = {}

    async def join(self, wanted: ServiceName, sock: socket.socket, user: str) -> None:
        """Have a worker join the socket to a service; returns when the far end accepted. Owns the socket.

        Raises:
            AnswerIsNo: policy refuses it. Unavailable: nothing answers.
        """
        number = next(self._ids)
        send, receive = trio.open_memory_channel[m.Adopted](1)
        message = m.Adopt(id=number, service=wanted.service, site=wanted.site, user=user)
        worker = self._workers.tell_one(message, [sock])
        if worker is None:
            raise Unavailable("no data worker is ready", hint="try again")
        self._waiting[number] = worker, send
        try:
            with trio.move_on_after(limits.OPEN_WAIT_TIMEOUT + 1):
                answer = await receive.receive()
                if answer.error:
                    kind = AnswerIsNo if answer.denied else Unavailable
                    raise kind(answer.error, hint=answer.hint)
                return
            raise Unavailable(f"{wanted.service} did not answer in time")
        except trio.EndOfChannel:
            raise Unavailable("the data worker ended", hint="try again") from None
        finally:
            self._waiting.pop(number, None)

    def answered(self, message: m.Adopted) -> None:
        waiting = self._waiting.pop(message.id, None)
        if waiting is not None:
            waiting[1].send_nowait(message)

    def worker_gone(self, worker: DataWorkerProcess) -> None:
        for number in [number for number, (asked, _) in self._waiting.items() if asked is worker]:
            self._waiting.pop(number)[1].close()
