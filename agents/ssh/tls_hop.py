"""I/O: one host reached by tls://: a TLS connection of its own for each stream.

It is here for the process: what an old TLS server sends is worked on where nothing of the node is. Each direction has
its own end, as in `stream`: the asyncio transports cannot half-close TLS. An end without close_notify is a cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable

import msgspec

from agents.clock import now
from agents.ssh.asking import Refused, pass_on
from agents.ssh.reasons import system_words
from agents.workers.dialled import why_not_dialled
from agents.workers.ssh_messages import CLEAN_END, HopState, LastHop
from bridge import limits
from bridge.errors import explain_tls_error
from bridge.identity.contexts import last_hop_client
from bridge.tunnels.frames import Code
from inventory.endpoints import Endpoint, parse_endpoint
from inventory.errors import MeshError

_READ = 64 * limits.KIB


class TlsHop:
    """One host."""

    def __init__(self, hop: LastHop, changed: Callable[[], None]) -> None:
        self.hop = hop
        self._changed = changed
        self._state = HopState(host=hop.host, state="up", reason="dialled for each stream")
        self._streams: set[asyncio.Task[None]] = set()
        self._is_over = False
        """The host is not ours any more, or is reached in another way."""

    async def run(self) -> None:
        """There is nothing to keep; when this is cancelled its streams end."""
        try:
            while True:
                ends = self.hop.allowed_until - now() if self.hop.allowed else None
                if ends is None or ends <= 0:
                    await asyncio.get_running_loop().create_future()
                await asyncio.sleep(ends or 0)
                self._cut()  # what was opened under the allowance
        finally:
            self._is_over = True
            self._cut()

    def _cut(self) -> None:
        for task in self._streams:
            task.cancel()

    @property
    def streams(self) -> int:
        return len(self._streams)

    async def free_ports(self) -> None:
        """It has none."""

    def current(self) -> HopState:
        return msgspec.structs.replace(self._state, channels=self.streams)

    async def open(self, sock: socket.socket, target: str) -> None:
        """Have the socket lead to the target; it is answered on it. Owns the socket once it returns. Raises Refused."""
        if len(self._streams) >= limits.SSH_CHANNELS_MAX:
            raise Refused(Code.LIMIT, f"{self.hop.host} has {limits.SSH_CHANNELS_MAX} streams already")
        allowed = self.hop.allowed if now() < self.hop.allowed_until else ()
        try:
            endpoint = parse_endpoint(target)
            context = last_hop_client(self.hop.ca, allowed)
        except MeshError as exc:
            raise Refused(Code.CONNECT_FAILED, exc.what) from None
        tcp, tls = None, _Tls(context, self.hop.address)
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT):
                tcp = await _dial(endpoint, self.hop)
                await tls.handshake(tcp)
            if self._is_over or (allowed and now() >= self.hop.allowed_until):
                raise Refused(Code.CONNECT_FAILED, f"{self.hop.host} is not reached in this way any more")
        except BaseException as exc:
            if tcp is not None:
                tcp.close()
            if isinstance(exc, OSError | TimeoutError):
                raise Refused(*self._why(exc, target)) from None
            raise
        fate = pass_on(sock)
        if fate is None:  # nobody is there any more
            sock.close()
            tcp.close()
            return
        task = asyncio.ensure_future(_Relay(sock, fate, tcp, tls).run())
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    def _why(self, error: OSError, target: str) -> tuple[Code, str]:
        if isinstance(error, TimeoutError):
            return Code.TIMEOUT, f"{target} did not answer within {limits.CONNECT_TIMEOUT:g} s"
        if isinstance(error, ssl.SSLError):
            said = explain_tls_error(error)
            hint = (
                "; an allowance for this host: host add ... --crypto tls-1.2, tls-1.0 or tls-rsa"
                if "TLS 1.3" in said
                else ""
            )
            return Code.CONNECT_FAILED, f"{target}: {said}{hint}"
        return Code.CONNECT_FAILED, f"{target}: {system_words(error)}"


async def _dial(endpoint: Endpoint, hop: LastHop) -> socket.socket:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    family, kind, protocol, _name, address = found[0]
    why = why_not_dialled((str(address[0]), int(address[1])), hop.allow_loopback)
    if why is not None:
        raise Refused(Code.CONNECT_FAILED, f"{hop.host} is not dialled: {why}")
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class _Tls:
    """The TLS of one connection, without its socket."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._sending = asyncio.Lock()

    async def handshake(self, tcp: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush(tcp)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self.flush(tcp)  # the alert
                raise
            else:
                await self.flush(tcp)
                return
            data = await loop.sock_recv(tcp, _READ)
            if not data:
                raise ConnectionResetError("it closed the connection during the TLS handshake")
            self._in.write(data)

    async def flush(self, tcp: socket.socket) -> None:
        async with self._sending:
            if self._out.pending:
                await asyncio.get_running_loop().sock_sendall(tcp, self._out.read())

    def write(self, data: bytes) -> None:
        self._tls.write(data)

    def end(self) -> None:
        """Our close_notify; the peer may go on."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is in these records; and whether the peer has ended."""
        self._in.write(data)
        found = bytearray()
        while True:
            try:
                part = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                return bytes(found), False
            except ssl.SSLZeroReturnError:
                part = b""
            if not part:
                return bytes(found), True
            found += part


class _Relay:
    """One stream, from its opening to its end. Owns the sockets."""

    def __init__(self, sock: socket.socket, fate: socket.socket, tcp: socket.socket, tls: _Tls) -> None:
        self._sock, self._fate, self._tcp, self._tls = sock, fate, tcp, tls
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._up())
                both.create_task(self._down())
        except* OSError:  # ssl.SSLError is one: the peer's fault or nobody's
            pass
        finally:
            for sock in (self._sock, self._fate, self._tcp):
                sock.close()

    async def _up(self) -> None:
        while data := await self._loop.sock_recv(self._sock, _READ):
            self._tls.write(data)
            await self._tls.flush(self._tcp)
        self._tls.end()
        await self._tls.flush(self._tcp)

    async def _down(self) -> None:
        ended = False
        while not ended:
            data = await self._loop.sock_recv(self._tcp, _READ)
            if not data:
                raise ConnectionResetError
            found, ended = self._tls.feed(data)
            await self._tls.flush(self._tcp)
            if found:
                await self._loop.sock_sendall(self._sock, found)
        with contextlib.suppress(OSError):
            self._fate.send(CLEAN_END)
        self._sock.shutdown(socket.SHUT_WR)
