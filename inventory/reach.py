"""Pure: how a gateway reaches a host on which no agent runs: its url, what may be allowed there for a time, and what is
refused because it leads back to the gateway.

    ssh://USER@ADDR[:PORT]     one ssh connection; targets are dialled by that host's own sshd
    tcp://ADDR                 targets are dialled as they are
    tls://ADDR                 targets are dialled with TLS

ADDR is an IP address (IPv6 in brackets) or a DNS name. A url is one canonical string or it is refused.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from inventory.endpoints import Endpoint, parse_endpoint, parse_target
from inventory.errors import InputError
from inventory.imports import why_refused
from inventory.model import Allowance, Gateway, Reach
from inventory.names import shown
from inventory.policy_rules import parse_until

Scheme = Literal["ssh", "tcp", "tls"]

SSH_PORT = 22
SSH_PROFILES = ("ssh-sha1", "ssh-cbc")
"""ssh-sha1: ssh-rsa signatures, Diffie-Hellman and MACs with SHA-1. ssh-cbc: AES and triple DES in CBC mode."""
TLS_PROFILES = ("tls-1.0", "tls-1.2", "tls-rsa")
"""tls-1.0: 1.0 and 1.1 as well as 1.2. tls-1.2: that, beside 1.3. tls-rsa: key exchange by RSA."""
PROFILES = SSH_PROFILES + TLS_PROFILES
URL_MAX = 400

_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.$#-]{0,63}", re.ASCII)
_HINT = "write ssh://USER@ADDR[:PORT], tcp://ADDR or tls://ADDR"
_ANY_PORT = 1
"""For parsers of `ADDR:PORT`, where there is only an address."""


@dataclass(frozen=True, slots=True)
class ReachUrl:
    """A parsed url; `str` gives the canonical one. `user` and `port` are of ssh only."""

    scheme: Scheme
    address: str
    user: str = ""
    port: int = 0

    def __str__(self) -> str:
        literal = f"[{self.address}]" if ":" in self.address else self.address
        if self.scheme != "ssh":
            return f"{self.scheme}://{literal}"
        return f"ssh://{self.user}@{literal}" + (f":{self.port}" if self.port != SSH_PORT else "")

    @property
    def endpoint(self) -> Endpoint:
        """Where sshd listens. Only of ssh."""
        return Endpoint(self.address, self.port)


def parse_reach(text: str) -> ReachUrl:
    """A url as above.

    Raises:
        InputError: not of that form, or an address that nothing can be sent to; never repaired.
    """
    if len(text) > URL_MAX:
        raise InputError(f"a url of {len(text)} characters, at most {URL_MAX} are allowed", hint=_HINT)
    name, separator, rest = text.partition("://")
    scheme: Scheme | None = next((known for known in get_args(Scheme) if known == name), None)
    if not separator or scheme is None:
        raise InputError(f"{shown(text)} is not how a host is reached", hint=_HINT)
    if scheme == "ssh":
        return _parse_ssh(text, rest)
    if "@" in rest:
        raise InputError(f"{shown(text)}: only ssh:// has a user", hint=_HINT)
    if re.search(r"(?:^[^:]*|\]):[0-9]+$", rest):
        raise InputError(f"{shown(text)}: only ssh:// has a port", hint="a service on the host has one in its --target")
    return ReachUrl(scheme, _address(text, rest, f"{rest}:{_ANY_PORT}"))


def _parse_ssh(text: str, rest: str) -> ReachUrl:
    user, at, place = rest.rpartition("@")
    if not at or not user:
        raise InputError(f"{shown(text)} names no user", hint=_HINT)
    if ":" in user:
        raise InputError("a url holds no password", hint="give a private key with --key, or a certificate authority")
    if not _USER.fullmatch(user):
        raise InputError(f"{shown(user)} is not a user name", hint="letters, digits and _ . $ # -, no dash first")
    has_port = place.rpartition(":")[2].isascii() and re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*):[^:]*", place) is not None
    if not has_port:
        return ReachUrl("ssh", _address(text, place, f"{place}:{SSH_PORT}"), user, SSH_PORT)
    endpoint = parse_target(place)
    return ReachUrl("ssh", _address(text, place.rpartition(":")[0], place), user, endpoint.port)


def _address(text: str, place: str, with_port: str) -> str:
    if not place or re.search(r"[/?#%\\\s]", place):
        raise InputError(f"{shown(text)} is not how a host is reached", hint=_HINT)
    try:
        return parse_target(with_port).host
    except InputError as exc:
        raise InputError(f"{shown(text)}: {exc.what}", hint=_HINT) from None


def parse_allowance(profiles: Iterable[str], owner: str, until: str) -> Allowance:
    """Raises InputError: an unknown profile, nobody's name, no date."""
    allowance = Allowance(profiles=tuple(sorted(set(profiles))), owner=owner, until=until)
    check_allowance(allowance)
    return allowance


def check_allowance(allowance: Allowance) -> None:
    """Raises InputError when it is not one."""
    unknown = next((name for name in allowance.profiles if name not in PROFILES), None)
    if unknown is not None or not allowance.profiles:
        raise InputError(f"{shown(unknown or '')} is not a crypto profile", hint=f"there are {', '.join(PROFILES)}")
    if not allowance.owner.strip() or not allowance.owner.isprintable() or len(allowance.owner) > 253:
        raise InputError("an allowance names its owner: who answers for it", hint="--crypto-owner NAME")
    parse_until(allowance.until)


def profiles_now(reach: Reach, now: float) -> tuple[str, ...]:
    """The profiles in force: an allowance that has ended allows nothing."""
    allowance = reach.allowance
    return allowance.profiles if allowance is not None and now < parse_until(allowance.until) else ()


def check_reach(reach: Reach) -> ReachUrl:
    """What must hold of a reach between its fields, wherever it comes from. Raises InputError."""
    url = parse_reach(reach.url)
    if str(url) != reach.url:
        raise InputError(f"the url {shown(reach.url)} is not in canonical form", hint=f"write it as {url}")
    if url.scheme == "ssh" and not reach.host_keys:
        raise InputError("a host reached by ssh needs its host key: nothing is trusted on first use")
    if url.scheme != "ssh" and (reach.host_keys or reach.credential is not None):
        raise InputError(f"host keys and credentials are for ssh://, not for {url.scheme}://")
    if url.scheme != "tls" and reach.ca is not None:
        raise InputError("a certificate authority is for tls:// only")
    if reach.allowance is not None:
        check_allowance(reach.allowance)
        allowed = {"ssh": SSH_PROFILES, "tls": TLS_PROFILES, "tcp": ()}[url.scheme]
        wrong = next((name for name in reach.allowance.profiles if name not in allowed), None)
        if wrong is not None:
            raise InputError(f"crypto profile {wrong} does not belong to {url.scheme}://")
    return url


def why_leads_back(reach: Reach, gateway: Gateway) -> str | None:
    """Why the gateway does not dial this: it would reach itself, or what no host is; None when it may.

    What a name stands for is found out at the gateway, each time that it dials (`why_address_refused`).
    """
    url = parse_reach(reach.url)
    own = parse_endpoint(gateway.address)
    if url.scheme == "ssh":
        if url.endpoint == own:
            return f"{url.endpoint} is gateway {gateway.name} itself"
        place = str(url.endpoint)
    else:
        if url.address == own.host and not reach.allow_loopback:
            return f"{url.address} is gateway {gateway.name} itself"
        place = str(Endpoint(url.address, _ANY_PORT))
    if _is_name(url.address):
        return None
    # An sshd on the gateway's own machine is a host like others; anything else there may be what guards the gateway.
    return why_refused(place, reach.allow_loopback or url.scheme == "ssh")


def why_target_refused(reach: Reach, target: str, gateway: Gateway | None) -> str | None:
    """Why this is no target of an instance on the host that the gateway reaches; None when it is one.

    The gateway's own port never is, `allow_loopback` or not: there a service would lead into the bridge again.
    """
    url = parse_reach(reach.url)
    if url.scheme == "ssh":
        return None  # it is dialled from the host
    endpoint = parse_endpoint(target)
    if endpoint.host != url.address:
        return f"a host reached by {url.scheme}:// has its targets at {url.address}"
    own = parse_endpoint(gateway.address) if gateway is not None else None
    if own is not None and endpoint.port == own.port and (endpoint.host == own.host or endpoint.is_loopback):
        return f"{endpoint} is the port of the gateway itself"
    return None


def _is_name(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return True
    return False
