"""I/O: sockets that the worker is to join to a service (`meshbridge dial`), until it says what became of them."""

from __future__ import annotations

import socket
from itertools import count

import trio

from agents.supervisor import DataWorkerProcess
from agents.workers import messages as m
from bridge import limits
from inventory.errors import AnswerIsNo, Unavailable
from inventory.names import ServiceName


class Adoptions:
    """Questions to the worker, by number."""

    def __init__(self, worker: DataWorkerProcess) -> None:
        self._worker = worker
        self._ids = count(1)
        self._waiting: dict[int, trio.MemorySendChannel[m.Adopted]] = {}

    async def join(self, wanted: ServiceName, sock: socket.socket, user: str) -> None:
        """Have the worker join the socket to a service; returns when the far end accepted.

        Raises:
            AnswerIsNo: policy refuses it. Unavailable: nothing answers.
        """
        number = next(self._ids)
        send, receive = trio.open_memory_channel[m.Adopted](1)
        self._waiting[number] = send
        message = m.Adopt(id=number, service=wanted.service, site=wanted.site, user=user)
        try:
            with trio.move_on_after(limits.OPEN_WAIT_TIMEOUT + 1):
                if not await self._worker.tell(message, [sock.fileno()]):
                    raise Unavailable("the data worker is not ready", hint="try again")
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
            waiting.send_nowait(message)

    def worker_gone(self) -> None:
        for waiting in self._waiting.values():
            waiting.close()
        self._waiting.clear()
