"""I/O: one host reached by ssh: its one connection, kept for as long as the host is ours, and what runs over it.

There is one try at a time, so sshd never has more than one connection of ours that is not logged in, and each try is a
whole login: a bare connect is what sshd punishes (F41). A login that was refused makes the next one wait long; anything
else is tried again every few seconds, so that the host is back within 5 s of the cause's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import asyncssh
import asyncssh.encryption
import asyncssh.kex
import asyncssh.mac
import msgspec

from agents.backoff import Backoff
from agents.clock import now
from agents.ssh.algorithms import CBC, HostKeys, Suite, old_ones, sort_host_keys, suite_for
from agents.ssh.asking import Refused
from agents.ssh.commands import run_command
from agents.ssh.connection import Client, Connection
from agents.ssh.credentials import Credentials, KeyPairs
from agents.ssh.reasons import Heard, Why, why_failed, why_lost, why_not_opened
from agents.ssh.remote_ports import RemotePorts
from agents.ssh.stream import Stream
from agents.workers.ssh_messages import Forwarded, HopState, LastHop
from agents.workers.ssh_page import SuspectNote
from bridge import limits
from bridge.lines import plain
from bridge.tunnels.frames import Code
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError, MeshError

_VERSION = "meshbridge"


@dataclass(frozen=True, slots=True)
class Around:
    """What all hosts of a worker share."""

    credentials: Credentials
    note: SuspectNote
    dials: asyncio.Semaphore
    """Hosts that are dialled at the same time."""
    changed: Callable[[], None]
    """A host's state is another one."""
    forwarded: Callable[[Forwarded, Sequence[socket.socket]], None]
    """A program on a host has connected to a published port; owns the sockets."""
    crashed: Callable[[BaseException], None]
    """Told of a bug."""
    rng: random.Random


class SshHop:
    """One host. `run` keeps its connection until cancelled."""

    def __init__(self, hop: LastHop, around: Around) -> None:
        self.hop = hop
        self._around = around
        self._where = f"{f'[{hop.address}]' if ':' in hop.address else hop.address}:{hop.port}"
        self.state = HopState(host=hop.host, state="connecting")
        self._connection: Connection | None = None
        self._settled = asyncio.Event()
        """Whether it is known how it is: up, or down for a reason."""
        self._quick = Backoff(rng=around.rng, first=limits.SSH_RETRY_FIRST, maximum=limits.SSH_RETRY_MAX)
        self._gentle = Backoff(rng=around.rng, first=limits.SSH_AUTH_RETRY_FIRST, maximum=limits.SSH_AUTH_RETRY_MAX)
        self._ports = RemotePorts(hop.host, around.forwarded)
        self._ports.want(hop.forwards)

    def listen_on(self, hop: LastHop) -> None:
        """Other ports are published there now, and nothing else is different: the connection stays."""
        self.hop = hop
        self._ports.want(hop.forwards)

    @property
    def streams(self) -> int:
        return len(self._connection.streams) if self._connection is not None else 0

    async def free_ports(self) -> None:
        """Listen on none of the host's ports any more; streams that came by them go on."""
        self._ports.want(())
        await self._ports.freed()

    # --- keeping it -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            while True:
                if self.hop.suspended:
                    self._down(Why("suspended", plain(self.hop.suspended)), 0.0)
                    await asyncio.get_running_loop().create_future()
                try:
                    wait = await self._once()
                except Exception as exc:  # a bug costs this host this try
                    self._around.crashed(exc)
                    wait = self._failed(why_failed(exc, Heard(self._where, self.hop.user)))
                await asyncio.sleep(wait)
        finally:
            if self._connection is not None:
                self._connection.abort()

    async def _once(self) -> float:
        """One connection from the dial to its end; how long to wait for the next one."""
        loop = asyncio.get_running_loop()
        heard = Heard(self._where, self.hop.user)
        client = Client()
        failure: BaseException | None = None
        began = loop.time()
        try:
            async with self._around.dials:
                began = loop.time()
                host_keys = sort_host_keys(self.hop.host_keys, self._allowed())
                heard = dataclasses.replace(heard, key=", ".join(_fingerprints(host_keys)))
                connection, heard, failure = await self._connect(host_keys, client, heard)
        except (MeshError, OSError) as exc:
            return self._failed(why_failed(exc, heard))
        if connection is None:
            return self._failed(why_failed(failure or ConnectionResetError(), heard), loop.time() - began)
        began = loop.time()
        self._up(connection)
        await self._serve(connection, client)
        self._connection = None
        lasted = loop.time() - began
        if lasted > limits.SSH_UP_SETTLED:
            self._quick.reset()
        return self._failed(why_lost(client.reason, self._where))

    def _allowed(self) -> tuple[str, ...]:
        return self.hop.allowed if now() < self.hop.allowed_until else ()

    async def _connect(
        self, host_keys: HostKeys, client: Client, heard: Heard
    ) -> tuple[Connection | None, Heard, BaseException | None]:
        """Dial and log in within SSH_CONNECT_TIMEOUT; what was heard, and what went wrong if there is none."""
        suite = suite_for(host_keys, self._allowed())
        keys = await self._around.credentials.for_host(self.hop)
        options = make_options(self.hop, host_keys, suite, keys, client)
        loop = asyncio.get_running_loop()
        offered = frozenset(name.encode() for name in suite.signatures)
        made: list[Connection] = []

        def new() -> Connection:
            made.append(Connection(loop, options, host=self.hop.host, note=self._around.note, offered=offered))
            return made[0]

        options.waiter = loop.create_future()
        failure: BaseException | None = None
        is_up = False
        try:
            async with asyncio.timeout(limits.SSH_CONNECT_TIMEOUT):
                await loop.create_connection(new, self.hop.address, self.hop.port)
                heard = dataclasses.replace(heard, connected=True)
                await options.waiter
            is_up = True
            return made[0], heard, None
        except Exception as exc:
            failure = exc
        finally:
            if not is_up:  # whatever ended it: a host that is taken away in this very moment, too
                for connection in made:
                    connection.abort()
        if made:
            version = made[0].get_extra_info("server_version") or ""
            early = made[0].early.split(b"SSH-2.0-")[0]
            heard = dataclasses.replace(
                heard, early=early, version=version, banner=client.banner,
                offers=made[0].offers(),
                wanted={"key exchange": suite.kex, "host key": suite.host_keys, "encryption": suite.ciphers},
            )  # fmt: skip
        return None, heard, failure

    async def _serve(self, connection: Connection, client: Client) -> None:
        """Until it ends, of itself or with the allowance that it needs."""
        ports = asyncio.create_task(self._ports.keep(connection, self._around.changed))
        ends = self.hop.allowed_until - now() if self.state.legacy else None
        try:
            await asyncio.wait_for(client.closed.wait(), ends)
        except TimeoutError:
            connection.abort()
            client.reason = asyncssh.ProtocolError("the allowance for old algorithms has ended")
        finally:
            ports.cancel()

    # --- what is said of it ---------------------------------------------------------------------------------------

    def _say(self, **changes: Any) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        self._around.changed()

    def _up(self, connection: Connection) -> None:
        self._connection = connection
        cipher = str(connection.get_extra_info("send_cipher") or "")
        used = (connection.kex, cipher, str(connection.get_extra_info("send_mac") or ""), connection.signature)
        self._gentle.reset()
        self._say(
            state="up", reason="", hint="", cause="", next_try=0.0, kex=connection.kex, cipher=cipher,
            host_key=connection.fingerprint(), software=connection.software, legacy=old_ones(used),
            connects=self.state.connects + 1, failures=0,
        )  # fmt: skip
        self._settled.set()

    def _failed(self, why: Why, spent: float = 0.0) -> float:
        """It is down; how long to wait. The seconds that were spent on an address that says nothing count as waiting:
        both together would be over 5 s."""
        if why.cause in ("authentication", "algorithms", "key", "local"):
            wait = limits.SSH_AUTH_RETRY_FIRST / 2 + self._gentle.next() if why.cause == "authentication" else 0.0
            wait = wait or self._around.rng.uniform(limits.SSH_RETRY_MAX / 2, limits.SSH_RETRY_MAX)
        else:
            wait = max(0.0, self._quick.next() - (spent if why.cause == "unreachable" else 0.0))
        self._down(why, wait)
        return wait

    def _down(self, why: Why, wait: float) -> None:
        if self._connection is not None:  # after a bug
            self._connection.abort()
        self._connection = None
        self._say(
            state="down", reason=why.reason, hint=why.hint, cause=why.cause, next_try=round(wait, 1),
            failures=self.state.failures + 1, channels=0, legacy=(),
        )  # fmt: skip
        self._settled.set()

    def current(self) -> HopState:
        """Its state now, with what changes all the time."""
        return msgspec.structs.replace(self.state, channels=self.streams, not_forwarded=dict(self._ports.failed))

    # --- what runs over it ----------------------------------------------------------------------------------------

    async def _ready(self) -> Connection:
        """Raises Refused."""
        if not self._settled.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), limits.SSH_CONNECT_TIMEOUT)
        if self._connection is None:
            raise Refused(Code.CONNECT_FAILED, f"{self.hop.host} is down: {self.state.reason or 'it is being dialled'}")
        return self._connection

    async def open(self, sock: socket.socket, target: str) -> None:
        """Have the socket lead to the target; it is answered on it. Owns the socket once it returns.

        Raises:
            Refused: with sshd's reason, or ours.
        """
        try:
            endpoint = parse_endpoint(target)
        except InputError as exc:
            raise Refused(Code.CONNECT_FAILED, exc.what) from None
        connection = await self._ready()
        if len(connection.streams) >= limits.SSH_CHANNELS_MAX:
            raise Refused(Code.LIMIT, f"{self.hop.host} has {limits.SSH_CHANNELS_MAX} streams already")
        stream = Stream(connection, sock)
        opening = asyncio.ensure_future(
            connection.create_connection(
                lambda: stream, endpoint.host, endpoint.port, window=limits.SSH_WINDOW, max_pktsize=limits.SSH_PACKET
            )
        )
        try:
            await asyncio.wait_for(asyncio.shield(opening), limits.CONNECT_TIMEOUT)
        except asyncssh.ChannelOpenError as exc:
            stream.give_back()
            raise Refused(*why_not_opened(exc, self.hop.host, target)) from None
        except TimeoutError:
            stream.give_back()
            opening.add_done_callback(_look_away)
            raise Refused(
                Code.TIMEOUT, f"{self.hop.host} did not connect to {target} within {limits.CONNECT_TIMEOUT:g} s"
            ) from None
        except (asyncssh.Error, OSError) as exc:
            stream.give_back()
            raise Refused(
                Code.CONNECT_FAILED, f"{self.hop.host} is down: {why_lost(exc, self._where).reason}"
            ) from None

    async def execute(self, argv: Sequence[str], timeout: float) -> tuple[int | None, bytes, bytes, bool]:
        """Run a command; exit code, both outputs, and whether they were cut. Raises Refused, TimeoutError."""
        return await run_command(await self._ready(), argv, timeout)


def _look_away(done: asyncio.Future[Any]) -> None:
    """The channel opened, or failed, after nobody wanted it any more; `Stream.session_started` has closed it."""
    if not done.cancelled():
        done.exception()


def _fingerprints(host_keys: HostKeys) -> list[str]:
    return [
        f"{key.get_algorithm()} {key.get_fingerprint()}"
        for key in map(asyncssh.import_public_key, (*host_keys.keys, *host_keys.authorities))
    ]


def make_options(
    hop: LastHop, host_keys: HostKeys, suite: Suite, keys: KeyPairs, client: Client
) -> asyncssh.SSHClientConnectionOptions:
    """Everything is said: nothing is taken from files of the user who runs the gateway, nor from an agent."""
    known = asyncssh.import_public_key
    return asyncssh.SSHClientConnectionOptions(
        host=hop.address,
        port=hop.port,
        username=hop.user,
        client_factory=lambda: client,
        client_keys=keys,
        known_hosts=([known(k) for k in host_keys.keys], [known(k) for k in host_keys.authorities], []),
        x509_trusted_certs=None,
        server_host_key_algs=[*suite.host_keys],
        kex_algs=_known("kex", suite.kex),
        encryption_algs=_known("encryption", suite.ciphers),
        mac_algs=_known("mac", suite.macs),
        compression_algs=["none"],
        signature_algs=[*suite.signatures],
        preferred_auth=["publickey"],
        password=None,
        kbdint_auth=False,
        host_based_auth=False,
        gss_host=None,
        agent_path=None,
        agent_forwarding=False,
        config=None,
        client_version=_VERSION,
        disable_trivial_auth=True,
        login_timeout=limits.SSH_CONNECT_TIMEOUT,
        rekey_bytes=limits.SSH_REKEY_BYTES if CBC not in hop.allowed else (),
        keepalive_interval=limits.SSH_KEEPALIVE,
        keepalive_count_max=limits.SSH_KEEPALIVE_MISSES,
    )


_KNOWN = {
    "kex": frozenset(asyncssh.kex.get_kex_algs()),
    "encryption": frozenset(asyncssh.encryption.get_encryption_algs()),
    "mac": frozenset(asyncssh.mac.get_mac_algs()),
}


def _known(kind: str, names: Sequence[str]) -> list[str]:
    """Those that this machine's libraries have: old ones disappear, new ones are not everywhere yet."""
    return [name for name in names if name.encode() in _KNOWN[kind]]
