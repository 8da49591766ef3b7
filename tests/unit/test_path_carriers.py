"""I/O: (socketpairs) which data worker carries a path, and who waits for one to be there."""

from __future__ import annotations

import socket
from typing import cast

import trio
import trio.testing

from agents.control.paths import Joined
from agents.data_workers import DataWorkers
from agents.path_carriers import PathCarriers
from agents.workers import messages as m
from bridge import limits


class FakeWorkers:
    """Workers that have not started yet."""

    def __init__(self) -> None:
        self.are_there = trio.Event()
        self.told: list[m.ToWorker] = []

    async def started(self) -> None:
        await self.are_there.wait()

    def tell_one(self, message: m.ToWorker, socks: tuple[socket.socket, ...]) -> object:
        for sock in socks:
            sock.close()
        if self.are_there.is_set():
            self.told.append(message)
            return self
        return None


async def test_a_path_waits_for_workers_that_start_and_not_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    workers = FakeWorkers()
    ended: list[int] = []
    carriers = PathCarriers(cast(DataWorkers, workers), ended.append)
    joined = [Joined(number, "a", "b", socket.socketpair()) for number in range(3)]
    await carriers.join(joined[0])
    assert ended == [0] and trio.current_time() >= limits.WORKER_START_TIMEOUT
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carriers.join, joined[1])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert ended == [0, 1] and not workers.told
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carriers.join, joined[2])
        await trio.testing.wait_all_tasks_blocked()
        workers.are_there.set()
    assert ended == [0, 1] and workers.told == [m.Join(id=2, a="a", b="b")]
    assert all(sock.fileno() == -1 for one in joined for sock in one.sockets)
