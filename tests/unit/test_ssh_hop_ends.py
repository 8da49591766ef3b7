"""One host of the ssh worker: whatever ends its task, no connection of it stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest

from agents.ssh import hop as under_test
from agents.ssh.hop import Around, SshHop
from agents.workers.ssh_messages import LastHop
from agents.workers.ssh_page import SuspectNote, SuspectPage
from tests.support.authority import HOST_KEY

BOX = LastHop(host="box", scheme="ssh", address="192.0.2.7", port=22, user="batch", host_keys=(HOST_KEY,))
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")


class Credentials:
    async def for_host(self, hop: LastHop) -> list[asyncssh.SSHKeyPair]:
        return list(asyncssh.load_keypairs([USER_KEY]))


class FakeConnection:
    """Logged in when the test says so."""

    kex = signature = software = early = ""

    def __init__(self, loop: Any, options: Any, **_: Any) -> None:
        self.options = options
        self.aborted = False
        self.streams: dict[int, Any] = {}
        made.append(self)

    def log_in(self) -> None:
        self.options.waiter.set_result(None)

    def abort(self) -> None:
        self.aborted = True

    def get_extra_info(self, name: str) -> str:
        return ""

    def fingerprint(self) -> str:
        return "ssh-ed25519 SHA256:x"


made: list[FakeConnection] = []


async def dialled(crashed: Callable[[BaseException], None]) -> tuple[SshHop, asyncio.Task[None], FakeConnection]:
    """A host with a connection that is not logged in yet."""
    loop, page = asyncio.get_running_loop(), SuspectPage()

    async def connect(new: Callable[[], Any], *_: Any) -> None:
        new()

    loop.create_connection = connect  # type: ignore[assignment,method-assign]
    around = Around(
        credentials=Credentials(),  # type: ignore[arg-type]
        note=SuspectNote(os.dup(page.fd)),
        dials=asyncio.Semaphore(1),
        changed=lambda: None,
        forwarded=lambda message, socks: None,
        crashed=crashed,
        rng=random.Random(1),
    )
    page.close()
    hop = SshHop(BOX, around)
    task = asyncio.ensure_future(hop.run())
    while not made:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return hop, task, made[0]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    made.clear()
    monkeypatch.setattr(under_test, "Connection", FakeConnection)


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_c16_a_host_that_is_taken_away_while_it_is_logged_in_to_leaves_no_connection(turns: int) -> None:
    async def main() -> None:
        _, task, connection = await dialled(fail)
        connection.log_in()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert connection.aborted

    asyncio.run(main())


def test_f43_a_bug_costs_the_connection_that_it_was_about() -> None:
    crashes: list[BaseException] = []

    async def main() -> None:
        hop, task, connection = await dialled(crashes.append)
        connection.fingerprint = lambda: fail(KeyError("x"))  # type: ignore[method-assign,assignment,return-value]
        connection.log_in()
        while not crashes:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert connection.aborted and hop.current().state == "down"
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())
