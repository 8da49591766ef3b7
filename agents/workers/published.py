"""I/O: published ports of a gateway: those who connect know nothing of us, and the gateway says who they are.

A client is known before a byte is read, by where it comes from; where the port asks for a certificate, by the key in
it, after a handshake that has a slot and a deadline. Whom no rule could ever let in is closed at once, without a byte.
From there on a client's connection is like a program's on a host: judged, placed, watched until it ends.
"""

from __future__ import annotations

import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import trio

from agents.workers import messages as m
from agents.workers.client_tls import ClientTls, Shaken, TlsRefused, carry
from agents.workers.live import Caller, LiveFlow
from agents.workers.outbound import Outbound
from agents.workers.streams import Streams
from agents.workers.tasks import Tasks
from bridge import limits
from bridge.counters import Closed, Tally
from bridge.flows import Flow
from bridge.policy.decide import Subject
from bridge.relay.loop import Loop
from bridge.relay.witnessed import WitnessedSocket
from inventory.clients import Address, Admissions, parse_peer
from inventory.endpoints import Endpoint
from inventory.snapshot import Snapshot


class PublishedOwner(Protocol):
    """The worker, as far as published ports need it."""

    name: str
    snapshot: Snapshot

    def may_accept(self) -> bool:
        """Whether there is room for one connection more."""

    def notice(self, event: str, text: str) -> None: ...


class Published:
    """Owner of the connections that have not shown a certificate yet; each costs one bounded slot (C23)."""

    def __init__(
        self, loop: Loop, tasks: Tasks, streams: Streams, outbound: Outbound, tally: Tally, tls: ClientTls,
        owner: PublishedOwner,
    ) -> None:  # fmt: skip
        self._loop = loop
        self._tasks = tasks
        self._streams = streams
        self._outbound = outbound
        self._tally = tally
        self._tls = tls
        self._owner = owner
        self._admissions = Admissions(owner.name, {}, {})
        self._entrances: set[tuple[str, str]] = set()
        """Services, and where they are published."""
        self._waiting: OrderedDict[int, trio.CancelScope] = OrderedDict()
        self._carried: set[LiveFlow] = set()
        """Connections of clients with certificates, which are decrypted here; each has two sockets more."""

    @property
    def sockets(self) -> int:
        """Those that are no stream's: of handshakes, and of what is decrypted here."""
        return len(self._waiting) + 2 * len(self._carried)

    def last_words(self) -> list[Flow]:
        """Streams that are over and whose clients have not been told all of it yet: this process must not end."""
        over = [flow for flow in self._carried if flow.result == "ok"]
        return [flow.record(now=self._loop.now, result="ok", reason="") for flow in over]

    # --- what is known --------------------------------------------------------------------------------------------

    def know(self, snapshot: Snapshot) -> None:
        """Work from what is signed now; whoever is not the same client by it any more is cut."""
        authority = snapshot.authority
        self._admissions = Admissions(self._owner.name, authority.clients, authority.admissions)
        self._tls.know(self._admissions.certificates)
        published = authority.publications.values()
        self._entrances = {(one.service, one.listen if one.listen is not None else str(one.host)) for one in published}
        self._streams.cut_where(self._why_over)

    def _why_over(self, flow: LiveFlow) -> str | None:
        """Why a live connection of somebody's would not be taken now; policy aside."""
        caller = flow.caller
        if caller is None:
            return None
        if (flow.service, caller.entrance) not in self._entrances:
            return f"{flow.service} is no longer published at {caller.entrance}"
        if flow.subject.kind == "client" and self._client_of(caller.address, caller.key) != flow.subject.name:
            return f"{flow.subject} is not known by this address or certificate any more"
        return None

    def _client_of(self, address: Address | None, key: str | None) -> str | None:
        known = self._admissions
        return known.by_source(address) if key is None else known.by_key(key, address)

    def _could(self, subject: Subject, service_name: str) -> bool:
        """Whether some rule could ever let the subject in: times, users and denies aside, as with what hosts see."""
        snapshot = self._owner.snapshot
        index, service = snapshot.index, snapshot.service(service_name)
        client, host = snapshot.authority.clients.get(subject.name), snapshot.host(subject.name)
        rules = 0
        if subject.kind == "client" and client is not None:
            rules = index.from_client(client)
        elif subject.kind == "host" and host is not None:
            rules = index.from_host(host)
        return service is not None and bool(rules & index.to_service(service) & index.acting)

    # --- connections ----------------------------------------------------------------------------------------------

    def taker(self, message: m.ListenPublished) -> Callable[[socket.socket, object], None]:
        """What takes the connections to this port. Called by a listener, inside the loop."""
        take = self._with_certificate if message.tls else self._by_source

        def accepted(sock: socket.socket, address: object) -> None:
            remote = _remote(address)
            if remote is None:
                self._refuse(sock, "unknown")
            else:
                take(message, sock, remote)

        return accepted

    def _refuse(self, sock: socket.socket, why: Closed) -> None:
        sock.close()
        self._tally.client_closed(why)

    def _by_source(self, message: m.ListenPublished, sock: socket.socket, remote: Endpoint) -> None:
        address = parse_peer(remote.host)
        client = self._client_of(address, None)
        if client is None:
            self._refuse(sock, "unknown")
        elif not self._could(Subject("client", client), message.service):
            self._refuse(sock, "not-allowed")
        else:
            caller = Caller(_place(message), address, None)
            self._outbound.client(sock, message.service, Subject("client", client), caller, str(remote))

    def forwarded(self, message: m.AdoptForwarded, given: socket.socket, witness: socket.socket) -> None:
        """A program on an agentless host connected to a port there, and the gateway's ssh worker handed it on."""
        sock = WitnessedSocket(fileno=given.detach())
        sock.witness = witness
        sock.setblocking(False)
        subject = Subject("host", message.host)
        if (message.service, message.host) not in self._entrances:
            self._refuse(sock, "unknown")
        elif not self._could(subject, message.service):
            self._refuse(sock, "not-allowed")
        elif not self._owner.may_accept():  # it waits in no listener's queue
            self._refuse(sock, "full")
        else:
            self._outbound.client(sock, message.service, subject, Caller(message.host, None, None), None)

    # --- certificates ---------------------------------------------------------------------------------------------

    def _with_certificate(self, message: m.ListenPublished, sock: socket.socket, remote: Endpoint) -> None:
        candidates = self._admissions.with_certificates(parse_peer(remote.host))
        if not candidates:
            self._refuse(sock, "unknown")
            return
        if not any(self._could(Subject("client", client), message.service) for client in candidates):
            self._refuse(sock, "not-allowed")
            return
        if len(self._waiting) >= limits.PREAUTH_MAX:
            _, oldest = self._waiting.popitem(last=False)
            oldest.cancel()
        self._tasks.start_soon(self._admit, message, sock, remote)

    async def _admit(self, message: m.ListenPublished, sock: socket.socket, remote: Endpoint) -> None:
        with contextlib.ExitStack() as owned:
            owned.enter_context(sock)
            shaken = await self._shake(sock, remote)
            if shaken is None:
                return
            address = parse_peer(remote.host)
            client = self._client_of(address, shaken.key)
            if client is None or not self._could(Subject("client", client), message.service):
                self._tally.client_closed("unknown" if client is None else "not-allowed")
                return
            inner, outer = socket.socketpair()
            inner.setblocking(False)
            outer.setblocking(False)
            owned.enter_context(outer)
            caller = Caller(_place(message), address, shaken.key)
            subject = Subject("client", client)
            flow = self._outbound.client(inner, message.service, subject, caller, str(remote))
            self._loop.settle()
            if flow is None:
                return
            owned.pop_all()
            await self._carry(sock, outer, shaken, flow)

    async def _shake(self, sock: socket.socket, remote: Endpoint) -> Shaken | None:
        number = sock.fileno()
        with trio.move_on_after(limits.PREAUTH_TIMEOUT) as scope:
            self._waiting[number] = scope
            try:
                return await self._tls.accept(sock)
            except TlsRefused as exc:
                self._tally.client_closed("certificate")
                self._owner.notice("client-refused", f"{remote}: {exc}")
            finally:
                if self._waiting.get(number) is scope:
                    del self._waiting[number]
        if scope.cancelled_caught:
            self._tally.client_closed("timeout")
        return None

    async def _carry(self, sock: socket.socket, outer: socket.socket, shaken: Shaken, flow: LiveFlow) -> None:
        def broke(reason: str) -> None:
            self._streams.cut_where(lambda other: reason if other is flow else None)
            self._loop.settle()

        self._carried.add(flow)
        try:
            await carry(sock, outer, shaken.pipe, flow, broke=broke)
        finally:
            self._carried.remove(flow)


def _place(message: m.ListenPublished) -> str:
    return str(Endpoint(message.address, message.port))


def _remote(address: object) -> Endpoint | None:
    """Where a connection comes from, as accept(2) says it."""
    return Endpoint(str(address[0]), int(address[1])) if isinstance(address, tuple) else None
