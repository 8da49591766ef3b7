"""I/O: enrolment at the node: from a token to a home with an identity, however often it is interrupted.

The key is made first and kept in the home, so a second try after any crash uses the same key and gets the same name
(F04). Nothing a gateway says is believed for its own sake: the genesis entry by its hash, which the token carries; the
gateway's certificate by the root in that entry; the first entries by their signatures; the new certificate by root,
name and key. domain.json is written last; until then the home is not joined.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from agents import clock
from agents.backoff import Backoff
from agents.control.enrolment import (
    PREFACE,
    VERSION_MAX,
    Enrolled,
    EnrolmentWanted,
    Genesis,
    GenesisWanted,
    Refused,
)
from agents.control.guest_tls import GuestStream, GuestTls
from agents.estate import Home, HomeConfig, load_config, store_config
from bridge import limits
from bridge.dns.addresses import parse_slice
from bridge.errors import PeerError, TlsFacts
from bridge.identity import certificates, contexts
from bridge.identity.certificates import PrivateKey
from bridge.identity.identity_file import load_identity, store_identity
from bridge.identity.issuer import make_csr
from bridge.identity.tokens import Token, parse_token
from bridge.identity.verify import verify_peer
from inventory.authority import AuthorityError, DomainBody, Slice
from inventory.endpoints import parse_endpoint
from inventory.errors import AnswerIsNo, InputError, MeshError, Unavailable
from inventory.home import lock_home, make_home, read_file, read_secret, write_file, write_secret
from inventory.model import Gateway
from inventory.names import Role, SpiffeId, shown
from inventory.strict_json import decode

_PENDING_MAX_BYTES = 16 * limits.KIB
_GATEWAYS: tuple[Role, ...] = ("gateway",)
_UNREACHABLE = "is the gateway running, and does a firewall let this machine reach it?"
_CLOCKS = "set the clock right, of this machine or of the gateway, and try again"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinOptions:
    """How this node will listen. None leaves what the home had, or the default."""

    listen: str | None = None
    advertise: str | None = None
    addresses: str | None = None
    dns: str | None = None


class _Pending(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """enrolment.pending: the key made for one token. Secret."""

    invite: str
    key: str
    """PKCS#8 PEM."""

    def __repr__(self) -> str:
        return f"_Pending({self.invite!r})"


async def dial_tcp(host: str, port: int) -> trio.abc.Stream:
    """A connection within DIAL_TIMEOUT. Raises Unavailable."""
    try:
        with trio.fail_after(limits.DIAL_TIMEOUT):
            return await trio.open_tcp_stream(host, port)
    except trio.TooSlowError:
        raise Unavailable(f"no answer within {limits.DIAL_TIMEOUT:.0f} s") from None
    except socket.gaierror:
        raise Unavailable("its name cannot be resolved") from None
    except OSError as exc:
        raise Unavailable(_why_not_connected(exc)) from None


def _why_not_connected(exc: OSError) -> str:
    """trio tells of all addresses at once: each one's reason is in the cause, with the address in its strerror."""
    cause: BaseException = exc
    while isinstance(cause.__cause__, BaseExceptionGroup):
        cause = cause.__cause__.exceptions[0]
    number = cause.errno if isinstance(cause, OSError) else None
    return os.strerror(number).lower() if number else "it cannot be connected to"


Dial = Callable[[str, int], Awaitable[trio.abc.Stream]]


async def join(
    token_text: str,
    home: Path,
    options: JoinOptions,
    *,
    version: str,
    say: Callable[[str], None] = lambda _: None,
    dial: Dial = dial_tcp,
) -> HomeConfig:
    """Enrols this home's node.

    Args:
        token_text: as `host add` printed it.
        version: of this program, for the gateway's log.
        say: told in words what is waited for.
        dial: how a gateway is connected to.

    Raises:
        InputError: the token or an option cannot be used, or the home belongs to another node.
        AnswerIsNo: the gateway refused.
        Unavailable: no gateway answered within ENROLMENT_PATIENCE, or the home is in use.
    """
    token = parse_token(token_text)
    before = check_home(home, token)
    config = _configured(token, before, options)
    make_home(home)
    with lock_home(home):
        if before is not None and before.invite == token.invite and is_good(home):
            say("this host is enrolled with this token already")
            store_config(home, config)
            Home(home).pending.unlink(missing_ok=True)
            return config
        key = pending_key(home, token)
        enrolled, start = await Applicant(token, key, version, dial).enrol(say)
        _complete(home, config, key, enrolled=enrolled, start=start)
    return config


def check_home(home: Path, token: Token) -> HomeConfig | None:
    """The home's configuration if this very node joined before; None when nothing did."""
    if not Home(home).has_estate:
        return None
    config = load_config(home)
    if (config.role, config.name, config.genesis) == (token.role, token.name, token.genesis):
        return config
    raise InputError(
        f"this home belongs to {config.role} {config.name} of {config.trust_domain}, "
        f"the token is for {token.role} {token.name} of {token.trust_domain}",
        where=str(home),
        hint="give the other node a home of its own with --home",
    )


def _configured(token: Token, before: HomeConfig | None, options: JoinOptions) -> HomeConfig:
    if token.role != "host":
        hint = (
            "use it with: meshbridge gateway join" if token.role == "gateway" else "ask the operator for a host's token"
        )
        raise InputError(f"the token is for a {token.role}, not for a host", hint=hint)
    old = before or HomeConfig(role="host", name=token.name, trust_domain=token.trust_domain, genesis=token.genesis)
    given = {name: getattr(options, name) for name in ("listen", "advertise", "addresses", "dns")}
    changes = {name: _canonical(name, value) for name, value in given.items() if value is not None}
    if options.listen is not None and options.advertise is None:
        changes["advertise"] = _default_advertise(options.listen)
    gateways = tuple(Gateway(name=name, address=address) for name, address in token.gateways)
    fields = {name: getattr(old, name) for name in old.__struct_fields__}
    config = HomeConfig(**{**fields, **changes, "gateways": gateways, "invite": token.invite})
    if config.advertise is not None and config.listen is None:
        raise InputError("an address is advertised but nothing listens", hint="give --listen as well")
    return config


def _canonical(option: str, value: str) -> str:
    """Raises InputError naming the option."""
    try:
        return str(
            parse_slice(value) if option == "addresses" else parse_endpoint(value, zero_ok=option != "advertise")
        )
    except InputError as exc:
        raise InputError(exc.what, where=f"--{option}", hint=exc.hint) from None


def _default_advertise(listen: str) -> str:
    endpoint = parse_endpoint(listen, zero_ok=True)
    if endpoint.host in ("0.0.0.0", "::") or endpoint.port == 0:
        raise InputError(
            f"others cannot dial {listen}", hint="say with --advertise ADDR:PORT where they reach this host"
        )
    return str(endpoint)


def is_good(home: Path) -> bool:
    """Whether the home has an identity that can still be used."""
    try:
        return load_identity(Home(home).identity).leaf.not_after > clock.now()
    except MeshError:
        return False


def pending_key(home: Path, token: Token) -> PrivateKey:
    """The key begun with for this token, or else a new one, on disk before anybody hears of it."""
    path = Home(home).pending
    if path.exists():
        try:
            found = decode(read_secret(path), _Pending, max_bytes=_PENDING_MAX_BYTES, what="begun enrolment")
        except InputError as exc:
            raise InputError(exc.what, where=str(path), hint=exc.hint or f"rm {path}") from None
        if found.invite == token.invite:
            return certificates.parse_private_key(found.key, where=str(path))
    key = certificates.generate_key()
    pending = _Pending(invite=token.invite, key=certificates.private_key_pem(key))
    write_secret(path, msgspec.json.encode(pending))
    return key


@dataclass(frozen=True, slots=True)
class Applicant:
    """One node that wants in: what it says is the same at every gateway."""

    token: Token
    key: PrivateKey
    version: str
    dial: Dial
    seal_to: bytes | None = None
    """Of a gateway that may be given the issuer's key."""

    async def enrol(self, say: Callable[[str], None]) -> tuple[Enrolled, Slice]:
        """Every gateway of the token in turn, and all again for a while when none answers."""
        backoff = Backoff(rng=random.Random(), maximum=2.0)
        deadline = trio.current_time() + limits.ENROLMENT_PATIENCE
        while True:
            reasons, foreign = [], 0
            for name, address in self.token.gateways:
                try:
                    return await self._enrol_at(address)
                except (PeerError, Unavailable, AuthorityError) as exc:
                    reasons.append(f"gateway {name} at {address}: {exc.what}")
                    foreign += isinstance(exc, AuthorityError)
            if foreign == len(self.token.gateways):
                raise InputError("; ".join(reasons), hint="is the token of this estate, and is something in between?")
            delay = backoff.next()
            if trio.current_time() + delay >= deadline:
                hint = _CLOCKS if any("our clock says" in why for why in reasons) else _UNREACHABLE
                raise Unavailable(f"no gateway could enrol this {self.token.role}: " + "; ".join(reasons), hint=hint)
            say(f"waiting for a gateway ({reasons[0]})")
            await trio.sleep(delay)

    async def _enrol_at(self, address: str) -> tuple[Enrolled, Slice]:
        """Both connections to one gateway.

        Raises:
            AnswerIsNo: it refused.
            AuthorityError: it is not of the token's trust domain.
            PeerError, Unavailable: it cannot be talked to.
        """
        endpoint = parse_endpoint(address)
        patience = 2 * limits.PREAUTH_TIMEOUT
        with trio.move_on_after(patience):
            async with await self.dial(endpoint.host, endpoint.port) as stream:
                start = await fetch_genesis(stream, self.token)
            async with await self.dial(endpoint.host, endpoint.port) as stream:
                enrolled = await ask(
                    stream, self.token, start, key=self.key, version=self.version, seal_to=self.seal_to
                )
                return enrolled, start
        raise Unavailable(f"it did not answer within {patience:.0f} s")


async def fetch_genesis(stream: trio.abc.Stream, token: Token) -> Slice:
    """First connection: the genesis entry, believed for its hash alone.

    Raises:
        AuthorityError: it is another trust domain's.
        PeerError: no answer that can be read.
    """
    await stream.send_all(PREFACE)
    tls = await GuestTls.connect(GuestStream(stream, limits.ENROLMENT_GUEST_BYTES), contexts.bootstrap_client())
    await tls.send(GenesisWanted())
    answer: Genesis = await tls.receive(Genesis)
    start = Slice.start(answer.entry, token.genesis)
    if start.genesis.trust_domain != token.trust_domain:
        raise AuthorityError(f"it is of trust domain {start.genesis.trust_domain}, the token of {token.trust_domain}")
    return start


async def ask(
    stream: trio.abc.Stream,
    token: Token,
    start: Slice,
    *,
    key: PrivateKey,
    version: str,
    seal_to: bytes | None = None,
) -> Enrolled:
    """Second connection: the gateway proves who it is, then hears the secret.

    Raises:
        AnswerIsNo: it refused.
        PeerError: it is not one of the token's gateways, or gave no answer that can be read.
        Unavailable: it cannot enrol now.
    """
    tls = await open_desk(stream, start.genesis, {name for name, _ in token.gateways})
    await tls.send(
        EnrolmentWanted(
            invite=token.invite,
            secret=token.secret,
            csr=make_csr(key),
            version=version[:VERSION_MAX],
            seal_to=seal_to,
        )
    )
    answer: Enrolled | Refused = await tls.receive(Enrolled | Refused)
    if isinstance(answer, Refused):
        _refused(answer, token)
    return answer


async def open_desk(stream: trio.abc.Stream, genesis: DomainBody, gateways: Collection[str]) -> GuestTls:
    """TLS to a gateway that has proved to be one of `gateways` of this trust domain.

    Raises:
        PeerError: it is not, or TLS fails.
    """
    root_pem = genesis.root_certificate
    await stream.send_all(PREFACE)
    facts = TlsFacts(now=clock.now(), our_root=certificates.root_fingerprint(root_pem))
    guest = GuestStream(stream, limits.ENROLMENT_GUEST_BYTES)
    tls = await GuestTls.connect(guest, contexts.enrolment_client(root_pem), facts)
    peer = verify_peer(
        tls.peer_chain(),
        now=clock.now(),
        trust_domain=genesis.trust_domain,
        roles=_GATEWAYS,
        purpose="enrol hosts",
        is_revoked=lambda _name, _key: None,
    )
    if peer.spiffe.name not in gateways:
        raise PeerError(f"gateway {peer.spiffe.name} answers there, not {' or '.join(sorted(gateways))}")
    return tls


def _refused(answer: Refused, token: Token) -> NoReturn:
    reason = shown(answer.reason)[1:-1]
    if answer.code == "unavailable":
        raise Unavailable(reason)
    another = f"meshbridge {token.role} token NAME"
    hint = {
        "token": f"it may be used, expired or replaced by a newer one; ask for a new one: {another}",
        "request": "report it: this program made the request",
        "key": "run the command again with a new token, which makes a new key",
    }[answer.code]
    raise AnswerIsNo(reason, where=f"{token.role} {token.name}", hint=hint)


def _complete(home: Path, config: HomeConfig, key: PrivateKey, *, enrolled: Enrolled, start: Slice) -> None:
    """Everything on disk, each file whole, domain.json last."""
    paths = Home(home)
    try:
        known = _slice_before(home, config, start).applied(enrolled.entries)
    except InputError as exc:
        raise PeerError(f"the gateway's entries cannot be believed: {exc.what}") from None
    if config.name not in known.state.hosts:
        raise PeerError("the gateway did not send this host's own entry")
    store_identity(
        paths.identity,
        key,
        enrolled.chain,
        spiffe=SpiffeId(config.trust_domain, "host", config.name),
        root_pem=start.genesis.root_certificate,
        now=clock.now(),
    )
    write_file(paths.slice, known.encode())
    store_config(home, config)
    paths.pending.unlink(missing_ok=True)


def _slice_before(home: Path, config: HomeConfig, start: Slice) -> Slice:
    """What this node knew before, so that enrolling again never lets it forget a revocation."""
    path = Home(home).slice
    if not path.exists():
        return start
    try:
        return Slice.decode(read_file(path), config.genesis)
    except InputError:
        return start
