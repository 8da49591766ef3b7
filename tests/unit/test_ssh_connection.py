"""One connection of the ssh worker against asyncssh's own server, over a socketpair."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest

from agents.ssh.algorithms import HostKeys, suite_for
from agents.ssh.connection import Client, Connection
from agents.ssh.hop import make_options
from agents.ssh.stream import Stream
from agents.workers.ssh_messages import CLEAN_END, LastHop
from agents.workers.ssh_page import SuspectNote, SuspectPage

HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")


class Server(asyncssh.SSHServer):
    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key == USER_KEY.convert_to_public()

    def public_key_auth_supported(self) -> bool:
        return True

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        return Echo()


class Echo(asyncssh.SSHTCPSession[bytes]):
    """Sends back what comes, and the end as well."""

    def connection_made(self, chan: Any) -> None:
        self.chan = chan

    def data_received(self, data: bytes, datatype: Any) -> None:
        self.chan.write(data)

    def eof_received(self) -> bool:
        self.chan.write_eof()
        return False


async def connected(
    prepare: Callable[[Connection], None] = lambda made: None, *, trusted: asyncssh.SSHKey = HOST_KEY, **server: Any
) -> tuple[Connection, Any]:
    """Raises what the login ended with."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    serving = asyncio.ensure_future(
        asyncssh.run_server(theirs, server_factory=Server, server_host_keys=[HOST_KEY], **server)
    )
    lines = HostKeys((trusted.export_public_key("openssh").decode().strip(),), ())
    suite = suite_for(lines, ())
    hop = LastHop(host="box", scheme="ssh", address="box.example", port=22, user="batch")
    options = make_options(hop, lines, suite, list(asyncssh.load_keypairs([USER_KEY])), Client())
    options.waiter = loop.create_future()
    page = SuspectPage()
    made = Connection(
        loop,
        options,
        host="box",
        note=SuspectNote(os.dup(page.fd)),
        offered=frozenset(map(str.encode, suite.signatures)),
    )
    page.close()
    prepare(made)
    await loop.create_connection(lambda: made, sock=ours)
    try:
        async with asyncio.timeout(10):
            await options.waiter
        return made, await serving
    except BaseException:
        made.abort()
        serving.cancel()
        raise


async def exchanged(connection: Connection, data: bytes, piece: int) -> bytes:
    """What an echoing host makes of `data`, written in pieces."""
    mine, sock = socket.socketpair()
    told, fate = socket.socketpair()
    for end in (mine, sock, told, fate):
        end.setblocking(False)
    stream = Stream(connection, sock, fate)
    await connection.create_connection(lambda: stream, "127.0.0.1", 80)
    loop = asyncio.get_running_loop()

    async def send() -> None:
        for start in range(0, len(data), piece):
            await loop.sock_sendall(mine, data[start : start + piece])
            await asyncio.sleep(0)
        mine.shutdown(socket.SHUT_WR)

    sending = asyncio.ensure_future(send())
    found = bytearray()
    while part := await loop.sock_recv(mine, 1 << 16):
        found += part
    await sending
    assert told.recv(1) == CLEAN_END
    mine.close()
    told.close()
    async with asyncio.timeout(10):
        while connection.streams:  # noqa: ASYNC110
            await asyncio.sleep(0)
    return bytes(found)


@pytest.mark.parametrize("piece", [7, 4096, 1 << 20])
@pytest.mark.parametrize("way", ["short", "long", "ctr", "rekey"])
def test_the_short_way_and_the_long_one_carry_the_same(way: str, piece: int) -> None:
    """The slow twin of the hot path is asyncssh itself: the same bytes, ends and windows, packet by packet."""

    def prepare(made: Connection) -> None:
        if way == "long":
            made._short_way = False
        if way == "rekey":
            made._rekey_bytes = 50_000

    async def run() -> None:
        more = {"encryption_algs": ["aes256-ctr"]} if way == "ctr" else {}
        more |= {"rekey_bytes": 40_000} if way == "rekey" else {}
        connection, server = await connected(prepare, **more)
        data = os.urandom(5000) * (1 if piece == 7 else 100)
        assert await exchanged(connection, data, piece) == data
        assert not connection.streams
        assert connection.signature == "ssh-ed25519"
        for end in (connection, server):
            end.abort()
            await end.wait_closed()

    asyncio.run(run())


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "x"), asyncio.CancelledError(), RuntimeError(), ValueError()]
)
def test_c36_an_error_while_the_host_key_is_checked_is_a_no(error: BaseException) -> None:
    def prepare(made: Connection) -> None:
        def fails(*_: object) -> None:
            raise error

        made._validate_host_key = fails  # type: ignore[assignment]

    async def run() -> None:
        with pytest.raises(BaseException) as caught:
            await connected(prepare)
        assert not isinstance(caught.value, AssertionError)

    asyncio.run(run())


def test_c34_a_key_that_was_not_signed_ends_it_before_anybody_is_told_who_we_are() -> None:
    asked: list[str] = []

    def prepare(made: Connection) -> None:
        made.public_key_auth_requested = lambda: asked.append("asked")  # type: ignore[assignment,func-returns-value]

    async def run() -> None:
        with pytest.raises((asyncssh.HostKeyNotVerifiable, asyncssh.KeyExchangeFailed)):
            await connected(prepare, trusted=asyncssh.generate_private_key("ssh-ed25519"))

    asyncio.run(run())
    assert not asked


def test_a_signature_of_a_kind_that_was_not_offered_proves_nothing() -> None:
    def prepare(made: Connection) -> None:
        made._offered = frozenset({b"rsa-sha2-512"})

    async def run() -> None:
        with pytest.raises(asyncssh.KeyExchangeFailed):
            await connected(prepare)

    asyncio.run(run())
