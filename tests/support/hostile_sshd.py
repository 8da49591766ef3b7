"""I/O: ssh servers that no honest machine runs, for tests of what they can do to us (F42, C33 to C36, H33).

    python -m tests.support.hostile_sshd KIND     prints its port and its host key, serves until it is killed

Before the login:
    silent, stall        says nothing at all; says its version and then nothing
    banner, line         lines without end before the version; one line without end
    trickle              its version, one byte a second
    http, escape         speaks HTTP; has escape codes in its version
    kexstall, huge       offers keys and never goes on; announces a packet of 4 GB
    ignores, ext         packets that mean nothing, without end; the same as EXT_INFO
    early                opens a channel before anybody is logged in
With a key that is the right one, by asyncssh:
    denier               refuses the login, with escape codes in its banner
    truncator            offers ChaCha20-Poly1305 only
    mute, window         lets us in and answers no channel; opens channels that take nothing
    flood, asker         sends packets that mean nothing without end; asks without end and does not read the answers
    overflow             sends more than the window allows
    opener               opens forwarded channels that nobody asked for
"""

from __future__ import annotations

import asyncio
import logging
import os
import struct
import subprocess
import sys
from typing import Any

import asyncssh
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_GLOBAL_REQUEST, MSG_IGNORE
from asyncssh.packet import Boolean, String, UInt32

from tests.support.sshd import ROOT

KEX = b"curve25519-sha256"
ESCAPES = "\x1b[2J\x1b]0;gotcha\x07\x9b31mred\r\nError: all is well"


def packet(payload: bytes) -> bytes:
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack(">IB", 1 + len(payload) + padding, padding) + payload + bytes(padding)


def kexinit() -> bytes:
    names = (
        KEX,
        b"ssh-ed25519",
        *(b"aes128-gcm@openssh.com",) * 2,
        *(b"hmac-sha2-256",) * 2,
        *(b"none",) * 2,
        b"",
        b"",
    )
    lists = b"".join(struct.pack(">I", len(name)) + name for name in names)
    return packet(b"\x14" + os.urandom(16) + lists + b"\0" + bytes(4))


async def raw(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    version = b"SSH-2.0-hostile\r\n"
    endless: bytes | None = None
    match kind:
        case "stall":
            writer.write(version)
        case "banner":
            endless = b"welcome to the machine\r\n" * 100
        case "line":
            endless = b"x" * 4096
        case "trickle":
            for byte in version:
                writer.write(bytes((byte,)))
                await asyncio.sleep(1)
        case "http":
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            writer.close()
        case "escape":
            writer.write(b"SSH-1.0-" + ESCAPES.encode("latin-1") + b"\r\n")
        case "kexstall":
            writer.write(version + kexinit())
        case "huge":
            writer.write(version + b"\xff\xff\xff\xff" + bytes(1000))
        case "ignores":
            writer.write(version)
            endless = packet(b"\x02" + struct.pack(">I", 4) + b"none") * 100
        case "ext":
            writer.write(version + kexinit())
            endless = packet(b"\x07" + struct.pack(">I", 0)) * 100
        case "early":
            writer.write(version + kexinit() + packet(b"\x5a" + String("session") + UInt32(0) * 3))
    while endless:
        writer.write(endless)
        await writer.drain()
    await reader.read()
    await asyncio.sleep(3600)


class Server(asyncssh.SSHServer):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.conn = conn

    async def begin_auth(self, username: str) -> bool:
        if self.kind == "denier":
            self.conn.send_auth_banner(ESCAPES)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return self.kind != "denier"

    def auth_completed(self) -> None:
        if self.kind in ("flood", "asker", "opener"):
            self.task = asyncio.ensure_future(self.bother())

    async def bother(self) -> None:
        conn: Any = self.conn
        while conn._transport is not None:
            if self.kind == "flood":
                for _ in range(200):
                    conn.send_packet(MSG_IGNORE, String(b""))
            elif self.kind == "asker":
                conn._transport.pause_reading()
                for _ in range(50):
                    conn.send_packet(MSG_GLOBAL_REQUEST, String(b"keepalive@openssh.com"), Boolean(True))
            else:
                channel = conn.create_tcp_channel(None)
                try:
                    await channel.accept(asyncssh.SSHTCPSession, "127.0.0.1", 22, "127.0.0.1", 1)
                except asyncssh.ChannelOpenError:
                    await asyncio.sleep(0.1)
            await asyncio.sleep(0)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        if self.kind == "mute":
            return asyncio.get_running_loop().create_future()
        if self.kind == "window":
            channel = self.conn.create_tcp_channel(None, window=0)
            return channel, asyncssh.SSHTCPSession()
        if self.kind == "overflow":
            return Overflow()
        return False


class Overflow(asyncssh.SSHTCPSession):
    def session_started(self) -> None:
        pass

    def connection_made(self, chan: Any) -> None:
        def send() -> None:
            for _ in range(4096):
                chan.send_packet(MSG_CHANNEL_DATA, String(bytes(32768)))

        asyncio.get_running_loop().call_later(0.1, send)


RAW = ("silent", "stall", "banner", "line", "trickle", "http", "escape", "kexstall", "huge", "ignores", "ext", "early")
LOGGED_IN = ("denier", "truncator", "mute", "window", "flood", "asker", "overflow", "opener")


async def serve(kind: str) -> None:
    for name in ("asyncio", "asyncssh"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    key = asyncssh.generate_private_key("ssh-ed25519", comment="")
    line = key.export_public_key("openssh").decode().strip()
    if kind in RAW:
        server: Any = await asyncio.start_server(lambda r, w: raw(kind, r, w), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
    else:
        ciphers = ["chacha20-poly1305@openssh.com"] if kind == "truncator" else ["aes128-gcm@openssh.com"]
        server = await asyncssh.listen(
            "127.0.0.1", 0, server_factory=lambda: Server(kind), server_host_keys=[key], encryption_algs=ciphers,
            login_timeout=0,
        )  # fmt: skip
        port = server.get_port()
    print(port, line, flush=True)
    await asyncio.sleep(3600)


class HostileSshd:
    """One of them, as a process. Leaving the `with` block ends it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __enter__(self) -> HostileSshd:
        command = [sys.executable, "-m", "tests.support.hostile_sshd", self.kind]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        assert self._process.stdout is not None
        port, kind, blob = self._process.stdout.readline().split()[:3]
        self.address, self.port, self.user = "127.0.0.1", int(port), "somebody"
        self.host_key_line = f"{kind} {blob}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
