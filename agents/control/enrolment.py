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
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

import msgspec
import trio

from agents import clock
from agents.control.guest_tls import GuestStream, GuestTls
from agents.estate import Home
from agents.guards import must_pass
from agents.knowledge.key_holders import claim_key, holder_of
from bridge import limits
from bridge.bugs import tell_bug
from bridge.errors import PeerError
from bridge.identity import contexts
from bridge.identity.identity_file import was_issued
from bridge.identity.issuer import IssuanceRecord, Issuer, read_csr, refuse_foreign_key
from bridge.identity.sealing import seal
from bridge.logs import get_logger
from inventory.authority import (
    AuthorityState,
    Enrolment,
    InviteBody,
    SignedEntry,
    TokenRefused,
    match_invite,
    read_enrolment,
    record_refusal,
    spend_invite,
)
from inventory.errors import AnswerIsNo, InputError, MeshError, Unavailable
from inventory.home import read_secret
from inventory.names import Role, SpiffeId
from inventory.registries.interface import Registry

log = get_logger()

PREFACE = b"MBE1\n"
VERSION_MAX = 32

TOKEN_REFUSED = "token refused"  # noqa: S105
"""All that a guest learns, unless it has shown that it holds a secret which opens an invite now."""


_NO_REISSUE = "this key is no enrolled host's; enrol this host again: meshbridge host token NAME"
_NO_GATEWAY_REISSUE = "this key is no enrolled gateway's; enrol it again: meshbridge gateway token NAME"
_NO_ISSUER = "this gateway does not hold the issuer's key: ask another one"


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all enrolment messages."""


class GenesisWanted(Message, frozen=True, tag="genesis"):
    """Which trust domain is this? The answer is public; it is believed for its hash, not for who sent it."""


class EnrolmentWanted(Message, frozen=True, tag="enrol", omit_defaults=True):
    invite: str
    secret: bytes
    csr: bytes
    """DER."""
    version: str
    seal_to: bytes | None = None
    """Of a gateway: the X25519 key to which the issuer's key may be sealed."""


class ReissueWanted(Message, frozen=True, tag="reissue", omit_defaults=True):
    """A host's certificate has ended, or a gateway's goes to its end; the request is signed with the key that the node
    was enrolled with."""

    name: str
    csr: bytes
    version: str
    role: Literal["host", "gateway"] = "host"
    chain: str = ""
    """Of a gateway: the certificate that it has, PEM, leaf first."""


class Genesis(Message, frozen=True, tag="genesis-is"):
    entry: SignedEntry


class Enrolled(Message, frozen=True, tag="enrolled", omit_defaults=True):
    chain: str
    """PEM, leaf first."""
    entries: tuple[SignedEntry, ...]
    """What a new node starts from: domain, operators, gateways, its own entry. All signed, so all checked again."""
    issuer: bytes | None = None
    """For a gateway whose signed entry says `issuer`: the issuer's key and certificate, sealed to `seal_to`."""
    lifetime: float | None = None
    """Beside `issuer`: seconds that the certificates live which it issues."""


class Refused(Message, frozen=True, tag="refused"):
    code: Literal["token", "request", "key", "unavailable"]
    reason: str


Question = GenesisWanted | EnrolmentWanted | ReissueWanted
Answer = Genesis | Enrolled | Refused


class _RequestRefused(AnswerIsNo):
    """A good token with a request that cannot be granted: said to the guest by name (H09)."""

    def __init__(self, code: Literal["request", "key"], reason: str) -> None:
        super().__init__(reason)
        self.code = code


class EnrolmentServer:
    """A gateway's desk for strangers.

    Args:
        home: the gateway's; its identity is shown to guests.
        registry: where tokens are spent.
        issuer: signs; None: this gateway was not given the issuer's key, and says so.
        state, latest: the verified authority log as this gateway knows it, and the newest signed entry of every key.
        refresh: brings those two up to the registry's head: a token may be used the moment it was printed.
        lifetime: of the certificates, seconds.
        now: the wall clock, unix seconds.
        enrolled: a node's latest enrolment by role and name, also while the registry is away; without it, the
            registry's.
    """

    def __init__(
        self,
        home: Path,
        registry: Registry,
        issuer: Issuer | None,
        *,
        state: Callable[[], AuthorityState],
        latest: Callable[[], Mapping[str, SignedEntry]],
        refresh: Callable[[], Awaitable[object]],
        lifetime: float = limits.CERTIFICATE_LIFETIME,
        now: Callable[[], float] = clock.now,
        enrolled: Callable[[Role, str], Awaitable[Enrolment | None]] | None = None,
    ) -> None:
        self._home = Home(home)
        self._identity_path = self._home.identity
        self._registry = registry
        self._issuer = issuer
        self._state = state
        self._latest = latest
        self._refresh = refresh
        self._lifetime = lifetime
        self._now = now
        self._enrolled = enrolled or partial(read_enrolment, registry)

    async def serve_guest(self, sock: socket.socket, remote: str, *, waited: float = 0.0) -> IssuanceRecord | None:
        """As `serve`, where the preface is still to be read."""
        return await self.serve(sock, remote, waited=waited, preface=PREFACE)

    async def serve(
        self, sock: socket.socket, remote: str, *, waited: float = 0.0, preface: bytes = b""
    ) -> IssuanceRecord | None:
        """Serves one connection to its end and closes it. Never raises for anything that a guest does.

        Args:
            sock: connected TCP socket, of which nothing behind the preface was read; owned from here on.
            remote: the peer's address, for records.
            waited: seconds it has been open already; they count (C24).
            preface: what is still to come in clear.

        Returns:
            The certificate issued, None when there was none.
        """
        sock.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            return await self.serve_stream(stream, remote, waited=waited, preface=preface)

    async def serve_stream(
        self, stream: trio.abc.Stream, remote: str, *, waited: float = 0.0, preface: bytes = PREFACE
    ) -> IssuanceRecord | None:
        """As `serve`, over any stream of bytes."""
        with trio.move_on_after(max(0.0, limits.PREAUTH_TIMEOUT - waited)):
            try:
                return await self._serve(GuestStream(stream, limits.ENROLMENT_GUEST_BYTES), remote, preface)
            except PeerError as exc:
                log.info("enrolment guest turned away", remote=remote, reason=str(exc))
            except MeshError as exc:
                log.error("enrolment failed here", remote=remote, reason=str(exc), hint=exc.hint)
            except BaseException as exc:  # the guard of this connection: no guest ends the gateway
                if must_pass(exc):
                    raise
                tell_bug("enrolment ended by a bug", exc, remote=remote)
            return None
        log.info("enrolment guest took too long", remote=remote)
        return None

    async def _serve(self, guest: GuestStream, remote: str, preface: bytes) -> IssuanceRecord | None:
        # Nothing after the preface is read in clear: what follows goes to TLS and nowhere else (C25).
        await guest.expect(preface)
        # A context for each guest: the identity may have been renewed, and contexts are never altered.
        tls = await GuestTls.accept(guest, contexts.enrolment_server(self._identity_path))
        try:
            question: Question = await tls.receive(Question)
            if isinstance(question, GenesisWanted):
                await tls.send(Genesis(entry=self._latest()["domain"]))
                return None
            answer, record = await self._answer(question, remote)
            await tls.send(answer)
            return record
        finally:
            await tls.finish()

    async def _answer(
        self, wanted: EnrolmentWanted | ReissueWanted, remote: str
    ) -> tuple[Enrolled | Refused, IssuanceRecord | None]:
        asked_at = trio.current_time()
        try:
            if isinstance(wanted, ReissueWanted):
                event, (enrolled, record) = "certificate reissued", await self.reissue(wanted)
            else:
                event, (enrolled, record) = "enrolled", await self.enrol(wanted, remote)
            version = wanted.version[:VERSION_MAX]
            log.info(event, spiffe_id=record.spiffe_id, key=record.key, remote=remote, version=version)
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
        if self._issuer is None and refused.code == "unavailable":
            refused = Refused(code="unavailable", reason=_NO_ISSUER)
        await trio.sleep_until(asked_at + limits.ENROLMENT_REFUSAL_TIME)
        return refused, None

    async def enrol(self, wanted: EnrolmentWanted, remote: str) -> tuple[Enrolled, IssuanceRecord]:
        """Spends the token and issues. Whatever is refused for an existing invite is recorded for the operator.

        Raises:
            TokenRefused: the guest may learn only that.
            MeshError: a request that its holder may be told about, or the registry does not answer.
        """
        issuer = self._issuer_here()
        await self._refresh()
        state = self._state()
        now = self._now()
        key = ""
        invite_id: str | None = None
        try:
            invite = match_invite(state.invites, wanted.invite, wanted.secret)
            invite_id = invite.id
            spiffe = SpiffeId(state.trust_domain, invite.role, invite.name)
            _check_wanted(state, invite, spiffe)
            key = _read_key(wanted.csr)
            await self._check_key(state, key, spiffe)
        except (TokenRefused, _RequestRefused) as exc:
            reason = exc.detail if isinstance(exc, TokenRefused) else exc.what
            known = exc.invite if isinstance(exc, TokenRefused) else invite_id
            if known is not None:
                await record_refusal(self._registry, known, key=key, source=remote, now=now, reason=reason)
            raise
        # From here on only this key gets this name; asking again with it, after any crash, gets the same (F04).
        await spend_invite(self._registry, invite, key=key, source=remote, now=now)
        await _claim(self._registry, key, spiffe, now)
        issued = issuer.issue(wanted.csr, spiffe, now=now, lifetime=self._lifetime)
        enrolled = Enrolled(chain=issued.chain_pem, entries=first_entries(self._latest(), spiffe))
        if wanted.seal_to is not None and invite.role == "gateway" and state.gateways[invite.name].issuer:
            enrolled = msgspec.structs.replace(
                enrolled,
                issuer=seal(read_secret(self._home.issuer).decode("ascii"), wanted.seal_to),
                lifetime=self._lifetime,
            )
            log.warning("the issuer's key was handed over", gateway=invite.name, remote=remote)
        return enrolled, issued.record

    def _issuer_here(self) -> Issuer:
        """Raises Unavailable where there is none."""
        if self._issuer is None:
            raise Unavailable(_NO_ISSUER)
        return self._issuer

    async def reissue(self, wanted: ReissueWanted) -> tuple[Enrolled, IssuanceRecord]:
        """A new certificate for the key that this node was enrolled with.

        Raises:
            _RequestRefused: with the same words for a node that is not there, one that is revoked and another key.
            Unavailable: this gateway does not issue.
        """
        issuer = self._issuer_here()
        with trio.move_on_after(limits.REGISTRY_PATIENCE), suppress(Unavailable):
            await self._refresh()  # a host comes back by what was verified, too (F16)
        state = self._state()
        key = _read_key(wanted.csr)
        refused = _RequestRefused("key", _NO_REISSUE if wanted.role == "host" else _NO_GATEWAY_REISSUE)
        if wanted.name not in (state.hosts if wanted.role == "host" else state.gateways):
            raise refused
        if wanted.role == "host" and state.hosts[wanted.name].via is not None:
            raise refused  # only its gateway speaks for it, whoever had the name before
        enrolled = await self._enrolled(wanted.role, wanted.name)
        if (enrolled is not None and enrolled.key != key) or key in state.revoked_keys:
            raise refused
        spiffe = SpiffeId(state.trust_domain, wanted.role, wanted.name)
        if str(spiffe) in state.revoked_identities:
            raise refused
        # A record in the registry is not signed: whoever writes there must not become a gateway by it. What an issuer
        # of ours once signed counts instead, also where the record never came here before the registry was away.
        root = state.root_certificate
        proved = enrolled is not None
        if wanted.role == "gateway":
            proved = was_issued(wanted.chain, spiffe, key=key, root_pem=root)
        if not proved:
            raise refused
        issued = issuer.issue(wanted.csr, spiffe, now=self._now(), lifetime=self._lifetime)
        return Enrolled(chain=issued.chain_pem, entries=()), issued.record

    async def _check_key(self, state: AuthorityState, key: str, spiffe: SpiffeId) -> None:
        if key in state.revoked_keys:
            raise _RequestRefused("key", "this key was revoked; enrol with a new one")
        try:
            refuse_foreign_key(key, spiffe, await holder_of(self._registry, key))
        except AnswerIsNo as exc:
            raise _RequestRefused("key", exc.what) from None


def _check_wanted(state: AuthorityState, invite: InviteBody, spiffe: SpiffeId) -> None:
    """Whether the operator still wants this node."""

    def refuse(detail: str) -> NoReturn:
        raise TokenRefused(detail, invite=invite.id)

    known = state.hosts if invite.role == "host" else state.gateways
    if invite.name not in known:
        refuse(f"{invite.role} {invite.name} was removed")
    if invite.role == "host" and (via := state.hosts[invite.name].via) is not None:
        refuse(f"host {invite.name} is reached by gateway {via} now: no agent runs on it")
    if (revoked := state.revoked_identities.get(str(spiffe))) is not None:
        refuse(f"{invite.role} {invite.name} is revoked: {revoked.reason}")
    mine = state.numbers[f"invite/{invite.id}"]
    others = (i for i in state.invites.values() if i.role == invite.role and i.name == invite.name)
    if any(state.numbers[f"invite/{other.id}"] > mine for other in others):
        refuse(f"a newer token was made for {invite.role} {invite.name}")


def _read_key(csr: bytes) -> str:
    try:
        return read_csr(csr).key
    except InputError as exc:
        raise _RequestRefused("request", exc.what) from None


async def _claim(registry: Registry, key: str, spiffe: SpiffeId, now: float) -> None:
    """Looked at before the token was spent, so this refuses only when one key enrols under two names at once."""
    try:
        await claim_key(registry, key, spiffe, now=now)
    except AnswerIsNo as exc:
        raise _RequestRefused("key", exc.what) from None


def first_entries(latest: Mapping[str, SignedEntry], spiffe: SpiffeId) -> tuple[SignedEntry, ...]:
    """The genesis entry, then what a new node needs to find its estate: operators, gateways, its own entry."""
    own = {f"{spiffe.role}/{spiffe.name}", f"revoke/{spiffe.role}/{spiffe.name}"}
    wanted = [key for key in latest if key in own or key.startswith(("operator/", "gateway/"))]
    return (latest["domain"], *(latest[key] for key in wanted))
