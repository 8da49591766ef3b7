"""I/O: what an operator does with clients that know nothing of us, and with the ports where they find services. Each is
one signed change of the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.estate import Operator
from agents.operating.hosts import known_host
from bridge.identity.certificates import key_hash, parse_certificates, to_pem
from bridge.identity.contexts import is_usable
from inventory.authority import AdmissionBody, AuthorityState, Body, ClientBody, PublishBody
from inventory.clients import overlapping
from inventory.endpoints import parse_endpoint
from inventory.errors import AnswerIsNo, InputError
from inventory.model import Admission, Client, Publication
from inventory.names import shown
from inventory.reach import parse_reach

_AS_PEM = "give a certificate as PEM: it begins with -----BEGIN CERTIFICATE-----"


def known_client(state: AuthorityState, name: str) -> Client:
    """Raises AnswerIsNo when there is no such client."""
    client = state.clients.get(name)
    if client is None:
        raise AnswerIsNo(f"there is no client {shown(name)[1:-1]}", hint="see `meshbridge client list`")
    return client


def read_certificates(pem: str, where: str) -> dict[str, str]:
    """The certificates in a PEM file, by the hash of their public keys. Raises InputError: it holds none."""
    found = {}
    for certificate in parse_certificates(pem, where=where, hint=_AS_PEM):
        try:
            key = certificate.public_key()
        except Exception:  # whatever a foreign file makes of the parser
            raise InputError("the certificate has a key that cannot be read", where=where) from None
        text = to_pem(certificate)
        if not is_usable(text):
            raise InputError("the certificate cannot be used for TLS", where=where)
        found[key_hash(key)] = text  # type: ignore[arg-type]
    return found


def _known_gateway(state: AuthorityState, name: str) -> None:
    if name not in state.gateways:
        raise AnswerIsNo(f"there is no gateway {name}", hint=f"there are {', '.join(sorted(state.gateways))}")


async def add_client(operator: Operator, client: Client, admission: Admission) -> bool:
    """Records the client and what it is known by, in the place of what was said before; whether that was news.

    Raises:
        AnswerIsNo: there is no such gateway.
        InputError: somebody would be two clients at once.
    """

    def decide(state: AuthorityState) -> list[Body]:
        for gateway in client.gateways:
            _known_gateway(state, gateway)
        both = overlapping(admission, client, state.clients, state.admissions)
        if both is not None:
            raise InputError(both, hint="what one gateway sees has to mean one client: remove the other, or narrow it")
        news: list[Body] = []
        if state.admissions.get(client.name) != admission:
            news.append(AdmissionBody(admission=admission))
        if state.clients.get(client.name) != client:
            news.append(ClientBody(client=client))
        return news

    return bool(await operator.append(decide, message=f"client add {client.name}"))


async def remove_client(operator: Operator, name: str) -> None:
    """Nobody is this client any more: its streams are cut. Raises AnswerIsNo when there is no such client."""

    def decide(state: AuthorityState) -> list[Body]:
        gone: list[Body] = [ClientBody(client=known_client(state, name), removed=True)]
        if name in state.admissions:
            gone.append(AdmissionBody(admission=Admission(client=name), removed=True))
        return gone

    await operator.append(decide, message=f"client remove {name}")


async def publish(operator: Operator, wanted: Publication) -> bool:
    """Puts the service at a port where clients find it; whether that was news.

    Raises:
        AnswerIsNo: there is no such gateway or host.
        InputError: the port is taken by something else of ours.
    """

    def decide(state: AuthorityState) -> list[Body]:
        if wanted.gateway is not None:
            _known_gateway(state, wanted.gateway)
        if wanted.host is not None:
            _check_forwards(state, wanted.host)
        _check_port(state, wanted)
        return [] if state.publications.get(wanted.id) == wanted else [PublishBody(publication=wanted)]

    return bool(await operator.append(decide, message=f"service publish {wanted.service}"))


def _check_forwards(state: AuthorityState, name: str) -> None:
    """Whether a gateway can have the host's sshd listen."""
    host, reach = known_host(state, name), state.reaches.get(name)
    if host.via is None or reach is None:
        hint = "an agent makes every service that its host may reach available there already"
        raise InputError(f"an agent runs on {name}", where="--on", hint=hint)
    if parse_reach(reach.url).scheme != "ssh":
        hint = "publish it at the gateway: --via GATEWAY --listen ADDR:PORT"
        raise InputError(f"{name} is not reached by ssh", where="--on", hint=hint)


def _check_port(state: AuthorityState, wanted: Publication) -> None:
    place = wanted.id.partition("/")[2]
    other = next((p for i, p in state.publications.items() if i.partition("/")[2] == place and i != wanted.id), None)
    if other is not None:
        hint = f"meshbridge service unpublish {other.service}, or choose another port"
        raise InputError(f"service {other.service} is published there already", hint=hint)
    gateway = state.gateways.get(wanted.gateway or "")
    if gateway is not None and wanted.listen is not None:
        tunnels, listen = parse_endpoint(gateway.address), parse_endpoint(wanted.listen)
        if tunnels.port == listen.port and listen.host in (tunnels.host, "0.0.0.0", "::"):
            raise InputError(f"{wanted.listen} is where gateway {wanted.gateway} takes tunnels", where="--listen")


@dataclass(frozen=True, slots=True)
class Published:
    """Which publications of a service: all, those of one gateway, or those on one host."""

    service: str
    gateway: str | None = None
    host: str | None = None
    listen: str | None = None

    def matches(self, publication: Publication) -> bool:
        return (
            publication.service == self.service
            and self.gateway in (None, publication.gateway)
            and self.host in (None, publication.host)
            and self.listen in (None, publication.listen)
        )


async def unpublish(operator: Operator, which: Published) -> list[Publication]:
    """Takes these away; them. Raises AnswerIsNo when there is none."""
    gone: list[Publication] = []

    def decide(state: AuthorityState) -> list[Body]:
        gone[:] = [p for _, p in sorted(state.publications.items()) if which.matches(p)]
        if not gone:
            raise AnswerIsNo(f"service {which.service} is not published there", hint="see `meshbridge service list`")
        return [PublishBody(publication=publication, removed=True) for publication in gone]

    await operator.append(decide, message=f"service unpublish {which.service}")
    return gone
