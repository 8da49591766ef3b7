"""I/O: enrolment at the gateway: a stranger with a token becomes a node with a certificate, once.

    TCP to the gateway's one port, the line MBE1 in clear, TLS without a client certificate, then one question:

    genesis     -> the signed genesis entry, so that the guest knows which root to check the gateway by
    enrol       -> a certificate chain and the first authority entries, or a refusal

A guest holds nothing but a slot, for at most PREAUTH_TIMEOUT in all, and learns nothing from a refusal: its words are
the same and come at the same moment whether the token was wrong, unknown, used or expired (H10, C20, C21). What was
wrong is in the gateway's log and, for invites that exist, in the registry. docs/protocol.md describes the messages.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, Protocol

import msgspec
import structlog
import trio

from agents.control.guest_tls import GuestStream, GuestTls, PlainStream
from agents.key_holders import claim_key
from bridge import limits
from bridge.errors import PeerError
from bridge.identity import contexts
from bridge.identity.issuer import IssuanceRecord, Issuer, read_csr
from inventory.authority import (
    AuthorityState,
    InviteBody,
    SignedEntry,
    TokenRefused,
    match_invite,
    record_refusal,
    spend_invite,
)
from inventory.errors import AnswerIsNo, InputError, MeshError
from inventory.names import SpiffeId, shown
from inventory.registries.interface import Registry

log = structlog.get_logger()

PREFACE = b"MBE1\n"
VERSION_MAX = 32

TOKEN_REFUSED = "token refused"
"""All that a guest learns, unless it has shown that it holds a secret which opens an invite now."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all enrolment messages."""


class GenesisWanted(Message, tag="genesis"):
    """Which trust domain is this? The answer is public; it is believed for its hash, not for who sent it."""


class EnrolmentWanted(Message, tag="enrol"):
    invite: str
    secret: bytes
    csr: bytes
    """DER."""
    version: str


class Genesis(Message, tag="genesis-is"):
    entry: SignedEntry


class Enrolled(Message, tag="enrolled"):
    chain: str
    """PEM, leaf first."""
    entries: tuple[SignedEntry, ...]
    """What a new node starts from: domain, operators, gateways, its own entry. All signed, so all checked again."""


class Refused(Message, tag="refused"):
    code: Literal["token", "request", "key", "unavailable"]
    reason: str


Question = GenesisWanted | EnrolmentWanted
Answer = Genesis | Enrolled | Refused


class AuthoritySource(Protocol):
    """The verified authority log, as `agents.verified_log.VerifiedLog` holds it."""

    @property
    def state(self) -> AuthorityState: ...
    @property
    def latest(self) -> Mapping[str, SignedEntry]: ...
    async def refresh(self) -> bool:
        """Bring both up to the registry's head."""
        ...


@dataclass(frozen=True, kw_only=True)
class EnrolmentDesk:
    """What a gateway needs to enrol. `lifetime` is that of the certificates, in seconds; `now` is unix seconds."""

    gateway: str
    identity_path: Path
    registry: Registry
    authority: AuthoritySource
    issuer: Issuer
    now: Callable[[], float]
    lifetime: float = limits.CERTIFICATE_LIFETIME


class _RequestRefused(AnswerIsNo):
    """A good token with a request that cannot be granted: said to the guest by name (H09)."""

    def __init__(self, code: Literal["request", "key"], reason: str) -> None:
        super().__init__(reason)
        self.code = code


async def serve_guest(
    sock: socket.socket, remote: str, desk: EnrolmentDesk, *, waited: float = 0.0
) -> IssuanceRecord | None:
    """Serves one connection whose first unread bytes are the preface, and closes it. Never raises for what a guest does.

    Args:
        sock: connected TCP socket; owned from here on.
        remote: the peer's address, for records.
        waited: seconds it has been open already; they count (C24).

    Returns:
        The certificate issued, None when there was none.
    """
    sock.setblocking(False)
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        return await serve_stream(stream, remote, desk, waited=waited)


async def serve_stream(
    stream: PlainStream, remote: str, desk: EnrolmentDesk, *, waited: float = 0.0
) -> IssuanceRecord | None:
    """As `serve_guest`, over any stream of bytes."""
    with trio.move_on_after(max(0.0, limits.PREAUTH_TIMEOUT - waited)):
        try:
            return await _serve(stream, remote, desk)
        except PeerError as exc:
            log.info("enrolment guest turned away", remote=remote, reason=str(exc))
        except MeshError as exc:
            log.error("enrolment failed here", remote=remote, reason=str(exc), hint=exc.hint)
        except Exception as exc:  # the guard of this connection: no guest ends the gateway
            log.error("enrolment ended by a bug", remote=remote, error=repr(exc))
        return None
    log.info("enrolment guest took too long", remote=remote)
    return None


async def _serve(stream: PlainStream, remote: str, desk: EnrolmentDesk) -> IssuanceRecord | None:
    guest = GuestStream(stream, limits.ENROLMENT_GUEST_BYTES)
    # Nothing after the preface is read in clear: what follows goes to TLS and nowhere else (C25).
    await guest.expect(PREFACE)
    tls = await GuestTls.accept(guest, contexts.enrolment_server(desk.identity_path))
    try:
        match await tls.receive(Question):
            case GenesisWanted():
                await tls.send(Genesis(entry=await _genesis(desk)))
                return None
            case EnrolmentWanted() as wanted:
                answer, record = await _answer(wanted, remote, desk)
                await tls.send(answer)
                return record
    finally:
        await tls.finish()


async def _genesis(desk: EnrolmentDesk) -> SignedEntry:
    await desk.authority.refresh()
    return desk.authority.latest["domain"]


async def _answer(
    wanted: EnrolmentWanted, remote: str, desk: EnrolmentDesk
) -> tuple[Enrolled | Refused, IssuanceRecord | None]:
    asked_at = trio.current_time()
    try:
        enrolled, record = await enrol(wanted, remote, desk)
        log.info(
            "enrolled",
            spiffe_id=record.spiffe_id,
            key=record.key,
            serial=record.serial,
            remote=remote,
            version=shown(wanted.version[:VERSION_MAX]),
        )
        return enrolled, record
    except TokenRefused as exc:
        log.warning("token refused", remote=remote, reason=exc.detail, invite=exc.invite)
        refused = Refused(code="token", reason=TOKEN_REFUSED)
    except _RequestRefused as exc:
        log.warning("enrolment request refused", remote=remote, reason=exc.what)
        refused = Refused(code=exc.code, reason=exc.what)
    except MeshError as exc:
        log.error("enrolment failed here", remote=remote, reason=str(exc), hint=exc.hint)
        refused = Refused(code="unavailable", reason="the gateway cannot enrol anybody now")
    await trio.sleep_until(asked_at + limits.ENROLMENT_REFUSAL_TIME)
    return refused, None


async def enrol(wanted: EnrolmentWanted, remote: str, desk: EnrolmentDesk) -> tuple[Enrolled, IssuanceRecord]:
    """Spends the token and issues. Everything that is refused for an existing invite is recorded for the operator.

    Raises:
        TokenRefused: the guest may learn only that.
        MeshError: a request that its holder may be told about, or the registry does not answer.
    """
    await desk.authority.refresh()
    state = desk.authority.state
    now = desk.now()
    key = _key_offered(wanted.csr)
    try:
        invite = match_invite(state.invites, wanted.invite, wanted.secret)
        spiffe = SpiffeId(state.trust_domain, invite.role, invite.name)
        _check_wanted(state, invite, spiffe)
    except TokenRefused as exc:
        if exc.invite is not None:
            await record_refusal(desk.registry, exc.invite, key=key or "", source=remote, now=now, reason=exc.detail)
        raise
    try:
        key = _check_key(state, wanted.csr)
        await _claim(desk, key, spiffe, now)
    except _RequestRefused as exc:
        await record_refusal(desk.registry, invite.id, key=key or "", source=remote, now=now, reason=exc.what)
        raise
    # From here on only this key gets this name; asking again with it, after any crash, gets the same (F04).
    await spend_invite(desk.registry, invite, key=key, source=remote, now=now)
    issued = desk.issuer.issue(wanted.csr, spiffe, now=now, lifetime=desk.lifetime)
    return Enrolled(chain=issued.chain_pem, entries=first_entries(desk.authority.latest, spiffe)), issued.record


def _key_offered(csr: bytes) -> str | None:
    """The key's hash for the record, if the request can be read at all."""
    try:
        return read_csr(csr).key
    except InputError:
        return None


def _check_wanted(state: AuthorityState, invite: InviteBody, spiffe: SpiffeId) -> None:
    """Whether the operator still wants this node."""

    def refuse(detail: str) -> NoReturn:
        raise TokenRefused(detail, invite=invite.id)

    known = state.hosts if invite.role == "host" else state.gateways
    if invite.name not in known:
        refuse(f"{invite.role} {invite.name} was removed")
    if (revoked := state.revoked_identities.get(str(spiffe))) is not None:
        refuse(f"{invite.role} {invite.name} is revoked: {revoked.reason}")
    mine = state.numbers[f"invite/{invite.id}"]
    others = (i for i in state.invites.values() if i.role == invite.role and i.name == invite.name)
    if any(state.numbers[f"invite/{other.id}"] > mine for other in others):
        refuse(f"a newer token was made for {invite.role} {invite.name}")


def _check_key(state: AuthorityState, csr: bytes) -> str:
    try:
        key = read_csr(csr).key
    except InputError as exc:
        raise _RequestRefused("request", exc.what) from None
    if key in state.revoked_keys:
        raise _RequestRefused("key", "this key was revoked; enrol with a new one")
    return key


async def _claim(desk: EnrolmentDesk, key: str, spiffe: SpiffeId, now: float) -> None:
    try:
        await claim_key(desk.registry, key, spiffe, now=now)
    except AnswerIsNo as exc:
        raise _RequestRefused("key", exc.what) from None


def first_entries(latest: Mapping[str, SignedEntry], spiffe: SpiffeId) -> tuple[SignedEntry, ...]:
    """The genesis entry, then what a new node needs to find its estate: operators, gateways, its own entry."""
    own = {f"{spiffe.role}/{spiffe.name}", f"revoke/{spiffe.role}/{spiffe.name}"}
    wanted = [key for key in latest if key in own or key.startswith(("operator/", "gateway/"))]
    return (latest["domain"], *(latest[key] for key in wanted))
