"""Pure: what was seen of a box, as a proposal: services to place, hosts and clients that the estate lacks, rules.

A service is called by what its port is known for and the host that it is on: one name may have several instances, and
two hosts that listen on the same port seldom offer the same. Whoever knows better changes the name.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agents.discovery.seen import EPHEMERAL, Peer, Seen
from agents.discovery.sockets import ANY, End
from agents.discovery.well_known import is_known, well_known
from agents.discovery.whose import Box, Whose
from bridge import limits

_FTP = 21
_LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class Caller:
    """A subject of the policy, as it was seen at one service."""

    subject: str
    peer: Peer
    address: str
    """Empty: several."""


@dataclass(slots=True)
class Service:
    """Something that listens, here or elsewhere."""

    name: str
    host: str
    end: End
    is_known: bool
    """Whether the estate has this service already."""
    is_host_known: bool
    is_here: bool
    """Whether it is the box's own."""
    is_bridged: bool = False
    """Whether the box reaches it through the bridge already."""
    listener: Peer | None = None
    callers: list[Caller] = field(default_factory=list)

    @property
    def command(self) -> list[str]:
        """The words of `service add`."""
        target = str(End(self.end.address or _LOOPBACK, self.end.port))
        place = ["--host", self.host, "--target", target]
        return ["meshbridge", "service", "add", self.name, *place, "--check", well_known(self.end.port).check]


@dataclass(slots=True)
class Rule:
    name: str
    subjects: list[str]
    service: str
    callers: list[Caller]


@dataclass(slots=True)
class Proposal:
    services: list[Service]
    """What to place, and what is there already."""
    hosts: dict[str, list[str]]
    """A host that the estate does not have -> the words that would record it."""
    clients: dict[str, list[str]]
    """The same for clients."""
    rules: list[Rule]
    allowed: dict[tuple[str, str], str]
    """Subject and service -> the rule that allows it already."""
    own_nodes: int = 0
    """Connections between the estate's own nodes."""
    ftp_data: int = 0
    """Connections over which FTP sends files."""


def propose(seen: Seen, box: Box, whose: Whose) -> Proposal:
    return _Proposing(seen, box, whose).made()


class _Proposing:
    def __init__(self, seen: Seen, box: Box, whose: Whose) -> None:
        self._seen = seen
        self._box = box
        self._whose = whose
        self._names: set[str] = set()
        self._gateway = box.gateway or next(iter(whose.gateways), "GATEWAY")
        self._made = Proposal([], {}, {}, [], {}, ftp_data=seen.ftp_data)

    def made(self) -> Proposal:
        for service in (*self._offered(), *self._used()):
            self._made.services.append(service)
        for service in self._made.services:
            self._rule(service)
        return self._made

    # --- what the box offers --------------------------------------------------------------------------------------

    def _offered(self) -> list[Service]:
        callers: dict[End, dict[str, Peer]] = defaultdict(dict)
        for (end, address), peer in self._seen.used.items():
            is_reach = end.port == self._box.ssh_port and self._whose.is_gateway(address)
            if is_reach or self._whose.is_node(end):
                self._made.own_nodes += peer.connections
                continue
            # What listens on every address of the box is one thing, whichever of them was asked.
            every = End(ANY, end.port)
            place = callers[every if every in self._seen.listening else end]
            place[address] = _together((place[address], peer)) if address in place else peer
        listening = {end for end in self._seen.listening if not self._whose.is_node(end)}
        every_port = {end.port for end in listening if end.address == ANY}
        ends = {end for end in listening if end.address == ANY or end.port not in every_port} | callers.keys()
        found = []
        for end in sorted(ends, key=lambda end: (end.port, end.address)):
            service = self._service(end, self._box.name, is_here=True)
            service.listener = self._seen.listening.get(end)
            service.callers = self._subjects(callers.get(end, {}))
            found.append(service)
        return found

    def _subjects(self, peers: Mapping[str, Peer]) -> list[Caller]:
        """Who calls, with one client for many strangers out of one network."""
        found: list[Caller] = []
        strangers: dict[str, list[tuple[str, Peer]]] = defaultdict(list)
        for address, peer in sorted(peers.items()):
            subject = self._whose.subject_at(address)
            if subject is not None:
                found.append(Caller(subject, peer, address))
            else:
                strangers[_network(address)].append((address, peer))
        for network, some in sorted(strangers.items()):
            if len(some) >= limits.DISCOVER_NETWORK_FROM:
                found.append(Caller(self._client(network), _together(peer for _, peer in some), ""))
            else:
                found += [Caller(self._client(address), peer, address) for address, peer in some]
        return found

    def _client(self, source: str) -> str:
        name = f"client-{_word_of(source)}"
        command = ["meshbridge", "client", "add", name, "--via", self._gateway, "--source", source]
        self._made.clients.setdefault(name, command)
        return f"client:{name}"

    # --- what the box uses ----------------------------------------------------------------------------------------

    def _used(self) -> list[Service]:
        ftp = {end.address for end in self._seen.uses if end.port == _FTP}
        found = []
        for end, peer in sorted(self._seen.uses.items()):
            if self._whose.is_node(end):
                self._made.own_nodes += peer.connections
            elif end.address in ftp and self._is_passive_data(end):
                self._made.ftp_data += peer.connections
            else:
                found.append(self._elsewhere(end, peer))
        return found

    def _is_passive_data(self, end: End) -> bool:
        """At a server that is asked for files: whether this port is no service's that we could name."""
        host = self._whose.host_at(end.address)
        return end.port >= EPHEMERAL and not is_known(end.port) and self._whose.service_at(end, host) is None

    def _elsewhere(self, end: End, peer: Peer) -> Service:
        bridged = self._whose.bridged(end)
        if bridged is not None:
            service = Service(bridged.partition(".")[0], "", end, True, True, is_here=False, is_bridged=True)
        else:
            host = self._whose.host_at(end.address)
            service = self._service(end, host or self._host(end), is_here=False, is_host_known=host is not None)
        service.callers = [Caller(f"host:{self._box.name}", peer, "")]
        return service

    def _host(self, end: End) -> str:
        name = f"host-{_word_of(end.address)}"
        if self._whose.service_at(end, None) is None:
            reach = f"tcp://[{end.address}]" if ":" in end.address else f"tcp://{end.address}"
            command = ["meshbridge", "host", "add", name, "--reach", reach, "--via", self._gateway]
            self._made.hosts.setdefault(name, command)
        return name

    # --- both -----------------------------------------------------------------------------------------------------

    def _service(self, end: End, host: str, *, is_here: bool, is_host_known: bool = True) -> Service:
        is_host_known = self._box.is_host if is_here else is_host_known
        placed = self._whose.service_at(end, host)
        name = placed or self._free_name(f"{well_known(end.port).word}-{host.partition('.')[0]}"[:58])
        return Service(name, host, end, placed is not None, is_host_known, is_here)

    def _free_name(self, wanted: str) -> str:
        wanted, name, number = wanted.rstrip("-"), wanted.rstrip("-"), 1
        while name in self._names or self._whose.is_taken(name):
            number += 1
            name = f"{wanted}-{number}"
        self._names.add(name)
        return name

    def _rule(self, service: Service) -> None:
        """One for each service, of those whom no rule allows it yet."""
        wanted = []
        for caller in service.callers:
            rule = self._whose.allowed_by(caller.subject, service.name) if service.is_known else None
            if rule is None:
                wanted.append(caller)
            else:
                self._made.allowed[caller.subject, service.name] = rule
        if not wanted:
            return
        same = next((rule for rule in self._made.rules if rule.service == service.name), None)
        if same is None:
            same = Rule(f"discovered: {service.name} from {self._box.name}"[:120].strip(), [], service.name, [])
            self._made.rules.append(same)
        same.callers += wanted
        same.subjects = sorted({caller.subject for caller in same.callers})


def _network(address: str) -> str:
    prefix = 64 if ":" in address else 24
    return str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))


def _word_of(address: str) -> str:
    """An address or a network as a part of a name; of no two the same."""
    place, _, prefix = address.partition("/")
    words = ipaddress.ip_address(place).exploded.replace(".", "-").replace(":", "-")
    return f"{words}-{prefix}" if prefix else words


def _together(peers: Iterable[Peer]) -> Peer:
    every = list(peers)
    programs = list(dict.fromkeys(program for peer in every for program in peer.programs))
    return Peer(
        first=min(peer.first for peer in every),
        last=max(peer.last for peer in every),
        connections=sum(peer.connections for peer in every),
        unanswered=sum(peer.unanswered for peer in every),
        programs=programs[: limits.DISCOVER_PROGRAMS_KEPT],
    )
