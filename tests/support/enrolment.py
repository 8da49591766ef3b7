"""I/O: an enrolment desk for one test: a trust domain with its log in a registry in memory, and guests beside it.

The exchange runs over streams in memory, so a test needs no socket and, with trio's mock clock, no time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio
import trio.testing

from agents.control.enrolment import PREFACE, Enrolled, EnrolmentServer, EnrolmentWanted, Refused
from agents.control.guest_tls import GuestStream, GuestTls
from agents.control.joining import ask, fetch_genesis
from agents.knowledge.verified_log import VerifiedLog
from bridge import limits
from bridge.identity import certificates, contexts
from bridge.identity.certificates import PrivateKey
from bridge.identity.issuer import make_csr
from bridge.identity.tokens import Token, secret_hash
from inventory.authority import Body, DomainBody, GatewayBody, HostBody, InviteBody, Slice, append, genesis_fingerprint
from inventory.model import Gateway, Host
from inventory.names import Role
from tests.support.authority import ALICE
from tests.support.memory_registry import MemoryRegistry
from tests.support.memory_tls import TRUST_DOMAIN, TrustDomain

ADDRESS = "192.0.2.1:7443"
SECRET = bytes(range(32))
INVITE = "invite-1"


@dataclass
class Desk:
    """A gateway `gw1`, and whatever the test adds to its log. `now` is the wall clock of both sides."""

    domain: TrustDomain
    now: float
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)
    genesis: str = ""
    log: VerifiedLog = field(init=False)
    server: EnrolmentServer = field(init=False)

    async def open(self) -> None:
        self.domain.now = self.now
        gateway = Gateway(name="gw1", address=ADDRESS)
        genesis = DomainBody(
            trust_domain=TRUST_DOMAIN,
            namespace="bridge.internal",
            root_certificate=self.domain.root_pem,
            operator_name="alice",
        )
        signed = await append(self.registry, ALICE, [genesis, GatewayBody(gateway=gateway)], message="", now=self.now)
        self.genesis = genesis_fingerprint(signed[0])
        self.log = VerifiedLog(self.registry, self.genesis)
        await self.log.refresh()
        identity = self.domain.identity("gateway/gw1")
        identity.rename(self.domain.directory / "identity.pem")
        self.server = EnrolmentServer(
            self.domain.directory,
            self.registry,
            self.domain.issuer,
            state=lambda: self.log.state,
            latest=lambda: self.log.latest,
            refresh=self.log.refresh,
            now=lambda: self.now,
        )

    async def say(self, *bodies: Body) -> None:
        """Appends to the log; the server learns of it when it next looks."""
        await append(self.registry, ALICE, list(bodies), message="test", now=self.now)

    async def invite(
        self, name: str = "vm1", *, id: str = INVITE, secret: bytes = SECRET, ttl: float = limits.TOKEN_LIFETIME
    ) -> Token:
        """A host on record, and a token for it."""
        body = InviteBody(
            id=id, role="host", name=name, secret_hash=secret_hash(secret), expires_at=int(self.now + ttl)
        )
        await self.say(HostBody(host=Host(name=name)), body)
        return self.token(name, id=id, secret=secret)

    def token(self, name: str = "vm1", *, id: str = INVITE, secret: bytes = SECRET, role: Role = "host") -> Token:
        return Token(
            trust_domain=TRUST_DOMAIN,
            gateways=(("gw1", ADDRESS),),
            genesis=self.genesis,
            role=role,
            name=name,
            invite=id,
            secret=secret,
        )

    # --- talking to it --------------------------------------------------------------------------------------------

    async def talk(self, guest: Callable[[trio.abc.Stream], Awaitable[None]], remote: str = "198.51.100.7") -> object:
        """Serves one guest over a stream in memory; what the server returned."""
        ours, theirs = trio.testing.memory_stream_pair()
        result: list[object] = []

        async def serve() -> None:
            async with theirs:
                result.append(await self.server.serve_stream(theirs, remote))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with ours:
                await guest(ours)
        return result[0]

    async def enrol(self, token: Token, key: PrivateKey, remote: str = "198.51.100.7") -> Enrolled:
        """The honest exchange. Raises what a node would see."""
        found: list[Enrolled] = []
        errors: list[Exception] = []

        async def guest(stream: trio.abc.Stream) -> None:
            try:
                start = await self.start(token)
                found.append(await ask(stream, token, start, key=key, version="1"))
            except Exception as exc:  # kept, so that it is raised as itself and not in a group
                errors.append(exc)

        await self.talk(guest, remote)
        if errors:
            raise errors[0]
        return found[0]

    async def start(self, token: Token) -> Slice:
        """What the first connection brings."""
        found: list[Slice] = []
        errors: list[Exception] = []

        async def guest(stream: trio.abc.Stream) -> None:
            try:
                found.append(await fetch_genesis(stream, token))
            except Exception as exc:
                errors.append(exc)

        await self.talk(guest)
        if errors:
            raise errors[0]
        return found[0]

    async def raw_question(
        self, token: Token, csr: bytes | None = None, *, remote: str = "198.51.100.7"
    ) -> Enrolled | Refused:
        """The second connection alone, with any request; the answer as it came."""
        wanted = EnrolmentWanted(
            invite=token.invite,
            secret=token.secret,
            csr=make_csr(certificates.generate_key()) if csr is None else csr,
            version="1",
        )
        found: list[Enrolled | Refused] = []

        async def guest(stream: trio.abc.Stream) -> None:
            tls = await self.tls(stream)
            await tls.send(wanted)
            found.append(await tls.receive(Enrolled | Refused))

        await self.talk(guest, remote)
        return found[0]

    async def tls(self, stream: trio.abc.Stream) -> GuestTls:
        """A guest's TLS, after the preface."""
        await stream.send_all(PREFACE)
        guest = GuestStream(stream, limits.ENROLMENT_GUEST_BYTES)
        return await GuestTls.connect(guest, contexts.bootstrap_client())


async def open_desk(directory: Path, now: float) -> Desk:
    desk = Desk(TrustDomain(directory, now), now)
    await desk.open()
    return desk
