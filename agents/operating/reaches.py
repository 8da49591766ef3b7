"""I/O: what an operator does to have a gateway reach a host on which nothing may be installed.

A private key is read here, sealed to that gateway, and goes nowhere in clear. Everything that can be seen to be wrong
before it is signed is refused here, in its own words; the gateway looks again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents import clock
from agents.estate import Operator
from agents.knowledge.gateway_keys import GatewayKeys, own_keys, published_keys
from agents.knowledge.key_holders import keys_of
from agents.operating.gateways import known_gateway
from bridge.identity import certificates
from bridge.identity.seal_keys import seal_credential
from bridge.identity.ssh_keys import (
    HOST_KEY_FILE_MAX,
    RSA_BITS_MIN,
    RSA_BITS_MIN_OLD,
    USER_KEY_MAX,
    parse_host_keys,
    parse_user_key,
)  # fmt: skip
from inventory.authority import AuthorityState, Body, HostBody, ReachBody, revocation
from inventory.errors import AnswerIsNo, InputError
from inventory.home import read_file, read_secret
from inventory.model import Allowance, Host, Reach
from inventory.names import SpiffeId
from inventory.policy_rules import parse_until
from inventory.reach import ReachUrl, parse_reach, why_leads_back, why_target_refused

_CA = "?ca="
_AS_PEM = "give a certificate as PEM: it begins with -----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the operator gave. None, or empty, keeps what is on record; `anew` takes it away."""

    url: ReachUrl
    via: str
    host_keys: tuple[str, ...] = ()
    private_key: bytes | None = None
    ca: str | None = None
    allow_loopback: bool = False
    allowance: Allowance | None = None
    anew: bool = False

    def __repr__(self) -> str:
        return f"Wanted({self.url})"


@dataclass(frozen=True, slots=True)
class Recorded:
    reach: Reach
    is_news: bool
    lifted: bool
    """It was revoked, and is not any more."""


def parse_given(text: str) -> tuple[ReachUrl, Path | None]:
    """What is given to `--reach`, and the file that `?ca=` names. Raises InputError."""
    plain, has_ca, file = text.partition(_CA)
    url = parse_reach(plain)
    if has_ca and url.scheme != "tls":
        raise InputError("only tls:// has a certificate authority")
    return url, Path(file) if has_ca else None


def read_ca(path: Path) -> str:
    """The certificates in a file, as PEM and nothing else. Raises MeshError."""
    try:
        text = read_file(path.resolve(), HOST_KEY_FILE_MAX).decode("ascii")
        return "".join(map(certificates.to_pem, certificates.parse_certificates(text, where=str(path), hint=_AS_PEM)))
    except UnicodeDecodeError:
        raise InputError("it is not PEM", where=str(path), hint=_AS_PEM) from None


def read_host_keys(path: Path, url: ReachUrl, profiles: Collection[str] = ()) -> tuple[str, ...]:
    """`profiles` are those of the allowance for this host. Raises MeshError."""
    content = read_file(path.resolve(), HOST_KEY_FILE_MAX)
    least = RSA_BITS_MIN_OLD if "ssh-sha1" in profiles else RSA_BITS_MIN
    return parse_host_keys(content, url.address, url.port, where=str(path), rsa_bits_min=least)


def read_private_key(path: Path) -> bytes:
    """Raises MeshError: also when others can read the file."""
    read = read_file if path.suffix == ".pub" else read_secret  # it is refused for what it is, not for its mode
    return parse_user_key(read(path.resolve(), USER_KEY_MAX), where=str(path))


async def add_agentless(operator: Operator, host: Host, wanted: Wanted, *, named: Collection[str]) -> Recorded:
    """Records the host and how it is reached, or changes that.

    Args:
        named: as for `add_host`.

    Raises:
        AnswerIsNo: there is no such gateway, an agent runs on that host, or the gateway has not published its keys.
        InputError: the way leads back to the gateway, or something is missing for it.
    """
    gateway = known_gateway(operator.state, wanted.via)
    if wanted.allowance is not None and parse_until(wanted.allowance.until) <= clock.now():
        raise InputError(f"the allowance ended with {wanted.allowance.until} already", where="--crypto-until")
    sealed = None
    if wanted.private_key is not None:
        seal = (await keys_of_gateway(operator, wanted.via)).seal
        sealed = seal_credential(wanted.private_key, host.name, seal)
    spiffe = SpiffeId(operator.state.trust_domain, "host", host.name)
    lost = await keys_of(operator.registry, spiffe)
    made: list[Reach] = []
    lifted: list[bool] = []

    def decide(state: AuthorityState) -> list[Body]:
        known_gateway(state, wanted.via)
        before = state.hosts.get(host.name)
        if before is not None and before.via is None:
            hint = f"take it out first (meshbridge host remove {host.name}), with the agent on it"
            raise AnswerIsNo(f"host {host.name} is an agent host", hint=hint)
        after = _merged(before, host, wanted.via, named)
        reach = _reach(state.reaches.get(host.name), host.name, wanted, sealed)
        why = why_leads_back(reach, gateway) or _misplaced(state, reach)
        if why is not None:
            raise InputError(why, where=f"--reach {wanted.url}")
        made[:] = [reach]
        bodies: list[Body] = [] if after == before else [HostBody(host=after)]
        bodies += [] if reach == state.reaches.get(host.name) else [ReachBody(reach=reach)]
        revoked = state.revoked_identities.get(str(spiffe))
        lifted[:] = [revoked is not None]
        if revoked is not None:
            bodies.append(revocation(state, str(spiffe), keys=lost, reason=revoked.reason, lifted=True))
        return bodies

    is_news = bool(await operator.append(decide, message=f"host add {host.name} --reach {wanted.url}"))
    return Recorded(made[0], is_news, lifted[0])


def _merged(before: Host | None, host: Host, via: str, named: Collection[str]) -> Host:
    if before is None:
        return msgspec.structs.replace(host, via=via)
    return msgspec.structs.replace(before, via=via, **{name: getattr(host, name) for name in named})


def _reach(before: Reach | None, host: str, wanted: Wanted, sealed: str | None) -> Reach:
    """What is to be signed: as given, and otherwise as it was. Raises InputError."""
    kept = before if before is not None and not wanted.anew else None
    was = parse_reach(kept.url) if kept is not None else None
    same_place = was is not None and (was.scheme, was.address, was.port) == (
        wanted.url.scheme,
        wanted.url.address,
        wanted.url.port,
    )
    host_keys = wanted.host_keys or (kept.host_keys if kept is not None and same_place else ())
    if wanted.url.scheme == "ssh" and not host_keys:
        option = f"-p {wanted.url.port} " if wanted.url.port != 22 else ""
        hint = f"ssh-keyscan {option}{wanted.url.address} > FILE, compare it with the host's own, give --host-key FILE"
        raise InputError("nothing is trusted on first use: the host's key is needed", where="--host-key", hint=hint)
    credential = sealed
    if sealed is None and kept is not None and kept.credential is not None and wanted.url.scheme == "ssh":
        if kept.gateway != wanted.via:
            hint = "give --key again, or --replace to log in with a certificate"
            raise InputError(f"the key on record is sealed to gateway {kept.gateway}", where="--key", hint=hint)
        credential = kept.credential
    return Reach(
        host=host,
        gateway=wanted.via,
        url=str(wanted.url),
        host_keys=host_keys,
        credential=credential,
        ca=wanted.ca or (kept.ca if kept is not None and same_place else None),
        allow_loopback=wanted.allow_loopback or (kept is not None and same_place and kept.allow_loopback),
        allowance=wanted.allowance or (kept.allowance if kept is not None and same_place else None),
    )


def _misplaced(state: AuthorityState, reach: Reach) -> str | None:
    """Why services that are on the host already could not be reached; None when all can."""
    mine = (i for i in state.instances.values() if i.host == reach.host)
    gateway = state.gateways.get(reach.gateway)
    whys = ((i, why_target_refused(reach, i.target, gateway)) for i in mine)
    return next((f"{i.id} is on it: {why}" for i, why in whys if why is not None), None)


def one_gateway(operator: Operator, name: str | None) -> str:
    """The gateway of this name; without one, that of this home, or the only one there is. Raises MeshError."""
    if name is not None:
        return known_gateway(operator.state, name).name
    names = sorted(operator.state.gateways)
    if operator.config.role == "gateway" and operator.config.name in names:
        return operator.config.name
    if len(names) != 1:
        raise InputError("which gateway?", hint=f"name one of {', '.join(names)}")
    return names[0]


async def keys_of_gateway(operator: Operator, gateway: str) -> GatewayKeys:
    """From this home, where it is that gateway's; else what the gateway published, verified. Raises MeshError."""
    config = operator.config
    if (config.role, config.name) == ("gateway", gateway):
        return own_keys(operator.home, config.trust_domain, gateway)
    return await published_keys(operator.registry, operator.state, gateway, now=clock.now())
