"""I/O: makes this home a gateway's: as a host joins, and with the registry in Consul that it is to serve.

A gateway whose signed entry says `issuer` is given the issuer's key as well, sealed to a key that is made here for this
one enrolment. It is believed for the certificate beside it, which must be the one that signed ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents import clock
from agents.control.enrolment import Enrolled
from agents.control.joining import Applicant, Dial, check_home, dial_tcp, is_good, pending_key
from agents.estate import Home, HomeConfig, store_config
from agents.knowledge.verified_log import VerifiedLog
from bridge.errors import PeerError
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.identity_file import store_identity
from bridge.identity.issuer import Issuer
from bridge.identity.sealing import SealKey
from bridge.identity.tokens import Token, parse_token
from inventory.authority import Slice
from inventory.endpoints import bound_for, parse_endpoint
from inventory.errors import InputError
from inventory.home import lock_home, make_home, write_secret
from inventory.model import Gateway
from inventory.names import SpiffeId
from inventory.registries.consul_place import ConsulPlace


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """How this gateway listens, and where its registry is. None leaves what the home had, or the default."""

    listen: str | None = None
    consul: ConsulPlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedGateway:
    config: HomeConfig
    issues: bool
    """Whether it holds the issuer's key."""


async def join_gateway(
    token_text: str,
    home: Path,
    options: GatewayOptions,
    *,
    version: str,
    say: Callable[[str], None] = lambda _: None,
    dial: Dial = dial_tcp,
) -> JoinedGateway:
    """Enrols this home's gateway. It may be repeated; with a later token also to be given the issuer's key.

    Raises:
        InputError: the token or an option cannot be used, the home belongs to another node, or Consul holds another
            estate.
        AnswerIsNo: the gateway refused.
        Unavailable: no gateway enrolled it within ENROLMENT_PATIENCE, Consul is away, or the home is in use.
    """
    token = parse_token(token_text)
    if token.role != "gateway":
        hint = "use it with: meshbridge agent join"
        raise InputError(f"the token is for a {token.role}, not for a gateway", hint=hint)
    before = check_home(home, token)
    consul = options.consul or (before.consul if before is not None else None)
    if consul is None:
        raise InputError("where is the registry?", hint="name the estate's Consul with --consul-address, as for `init`")
    await _check_registry(consul, token)
    make_home(home)
    with lock_home(home):
        if before is not None and before.invite == token.invite and is_good(home):
            say("this gateway is enrolled with this token already")
            config = msgspec.structs.replace(before, consul=consul, listen=options.listen or before.listen)
            store_config(home, config)
            Home(home).pending.unlink(missing_ok=True)
            return JoinedGateway(config=config, issues=Home(home).issuer.exists())
        key, sealed_to = pending_key(home, token), SealKey()
        applicant = Applicant(token, key, version, dial, seal_to=sealed_to.public)
        enrolled, start = await applicant.enrol(say)
        config = _configured(token, before, options, consul, enrolled, start)
        issuer = _issuer_of(enrolled, sealed_to, config.trust_domain)
        _complete(home, config, key, enrolled=enrolled, start=start, issuer=issuer)
        return JoinedGateway(config=config, issues=issuer is not None)


async def _check_registry(place: ConsulPlace, token: Token) -> None:
    """Before the token is spent: the registry is there, and it is this estate's."""
    # Only here: its libraries take longer to load than most commands take to run.
    from agents.consul import open_consul

    async with open_consul(place) as registry:
        await VerifiedLog(registry, token.genesis).refresh()


def _configured(
    token: Token,
    before: HomeConfig | None,
    options: GatewayOptions,
    consul: ConsulPlace,
    enrolled: Enrolled,
    start: Slice,
) -> HomeConfig:
    try:
        known = start.applied(enrolled.entries)
    except InputError as exc:
        raise PeerError(f"the gateway's entries cannot be believed: {exc.what}") from None
    me = known.state.gateways.get(token.name)
    if me is None:
        raise PeerError("the gateway did not send this gateway's own entry")
    old = before or HomeConfig(role="gateway", name=token.name, trust_domain=token.trust_domain, genesis=token.genesis)
    listen = options.listen or old.listen or str(bound_for(parse_endpoint(me.address)))
    return msgspec.structs.replace(
        old,
        gateways=tuple(Gateway(name=name, address=address) for name, address in token.gateways),
        listen=listen,
        consul=consul,
        certificate_lifetime=enrolled.lifetime or old.certificate_lifetime,
        invite=token.invite,
    )


def _issuer_of(enrolled: Enrolled, sealed_to: SealKey, trust_domain: str) -> str | None:
    """The text of issuer.pem, once it is known to be the issuer that signed our certificate."""
    if enrolled.issuer is None:
        return None
    text = sealed_to.open(enrolled.issuer)
    issuer = Issuer.from_pem(text)
    ours = [certificates.to_der(c) for c in certificates.parse_certificates(enrolled.chain)[1:]]
    theirs = certificates.to_der(certificates.parse_certificates(text)[0])
    if issuer.trust_domain != trust_domain or theirs not in ours:
        raise PeerError("the issuer's key that came is not of the issuer that signed this gateway's certificate")
    return text


def _complete(
    home: Path, config: HomeConfig, key: PrivateKey, *, enrolled: Enrolled, start: Slice, issuer: str | None
) -> None:
    """Everything on disk, each file whole, domain.json last."""
    paths = Home(home)
    store_identity(
        paths.identity,
        key,
        enrolled.chain,
        spiffe=SpiffeId(config.trust_domain, "gateway", config.name),
        root_pem=start.genesis.root_certificate,
        now=clock.now(),
    )
    if issuer is not None:
        write_secret(paths.issuer, issuer.encode("ascii"))
    store_config(home, config)
    paths.pending.unlink(missing_ok=True)
