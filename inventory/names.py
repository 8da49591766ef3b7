"""Pure: names. Parsed once, at the edge, into one canonical form; compared as plain strings ever after.

    label         1 to 63 of [a-z0-9-], no dash first or last
    service name  one label                                   `ledger`
    site          one label                                   `dc1`
    gateway name  one label                                   `gw1`
    host name     one or more labels joined by dots, <= 253   `vm1`, `vm1.dc1.corp`
    domain        as a host name                              `bridge.internal`, `corp.internal`

ASCII upper case is folded and one trailing dot is dropped, as DNS does; everything else outside the grammar is
refused, never repaired, so two spellings are either the same string here or one of them is an error (C02, C03, C09).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from inventory.errors import InputError

MAX_LABEL = 63
MAX_NAME = 253
MAX_SPIFFE_ID = 2048

# What resolvers take for an address: digits, or hexadecimal (inet_aton reads 0x7f000001 as 127.0.0.1).
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_RESERVED = frozenset({"localhost"})
_SHOWN = 80

Role = Literal["host", "gateway", "operator"]
ROLES: tuple[Role, ...] = ("host", "gateway", "operator")


def shown(text: str) -> str:
    """Foreign text made safe to print: escaped, and cut so that it can never fill a log line (C44)."""
    short = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return ascii(short)


def _why_not_label(label: str) -> str | None:
    if not label:
        return "a label is empty"
    if len(label) > MAX_LABEL:
        return f"a label has {len(label)} characters, at most {MAX_LABEL} are allowed"
    if not _LABEL.fullmatch(label):
        return "labels use only a-z, 0-9 and -, and neither start nor end with -"
    if label[2:4] == "--":
        return "labels with -- in the third and fourth place are reserved (internationalised names are not supported)"
    return None


def parse_dotted(text: str, what: str) -> str:
    """A name of one or more labels in canonical form.

    Raises:
        InputError: not such a name; `what` names the kind of thing in the message.
    """
    name = text.lower() if text.isascii() else text
    if name.endswith("."):
        name = name[:-1]
    reason = None
    if len(name) > MAX_NAME:
        reason = f"it has {len(name)} characters, at most {MAX_NAME} are allowed"
    elif name in _RESERVED:
        reason = "it is reserved"
    else:
        labels = name.split(".")
        reason = next((why for label in labels if (why := _why_not_label(label))), None)
        if reason is None and _NUMBER.fullmatch(labels[-1]):
            reason = "its last label is a number, so it could be taken for an address"
    if reason is not None:
        raise InputError(f"{shown(text)} is not a {what}: {reason}")
    return name


def parse_label(text: str, what: str) -> str:
    """A name of exactly one label in canonical form. Raises InputError as `parse_dotted` does."""
    if "." in text.rstrip("."):
        raise InputError(f"{shown(text)} is not a {what}: it must be one label, without dots")
    name = text.lower() if text.isascii() else text
    name = name[:-1] if name.endswith(".") else name
    reason = "it is reserved" if name in _RESERVED else _why_not_label(name)
    if reason is None and _NUMBER.fullmatch(name):
        reason = "it is a number, so it could be taken for an address"
    if reason is not None:
        raise InputError(f"{shown(text)} is not a {what}: {reason}")
    return name


def parse_host(text: str) -> str:
    return parse_dotted(text, "host name")


def parse_service(text: str) -> str:
    return parse_label(text, "service name")


def parse_site(text: str) -> str:
    return parse_label(text, "site")


def parse_gateway(text: str) -> str:
    return parse_label(text, "gateway name")


def parse_domain(text: str) -> str:
    return parse_dotted(text, "domain")


def is_below(name: str, domain: str) -> bool:
    """Whether canonical `name` lies strictly under `domain`, label by label (C12: `xprod` is not under `prod`)."""
    return name.endswith("." + domain)


@dataclass(frozen=True, slots=True)
class ServiceName:
    """What a client asks for: a service, in one site or anywhere."""

    service: str
    site: str | None = None


def parse_service_name(text: str, domain: str) -> ServiceName:
    """`ledger`, `ledger.<domain>` or `ledger.<site>.<domain>`.

    Raises:
        InputError: not a service name of this namespace.
    """
    name = parse_dotted(text, "service name")
    if "." not in name:
        return ServiceName(name)
    if not is_below(name, domain):
        raise InputError(f"{shown(text)} is not a service name: it does not end in .{domain}")
    labels = name[: -len(domain) - 1].split(".")
    if len(labels) > 2:
        raise InputError(f"{shown(text)} is not a service name: expected SERVICE.{domain} or SERVICE.SITE.{domain}")
    return ServiceName(labels[0], labels[1] if len(labels) == 2 else None)


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """`spiffe://<trust domain>/<role>/<name>` (SPIFFE-ID standard, narrowed to what we issue)."""

    trust_domain: str
    role: Role
    name: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.role}/{self.name}"


def parse_spiffe_id(text: str) -> SpiffeId:
    """Exactly what `str(SpiffeId(...))` prints; any other spelling is refused (H07).

    Raises:
        InputError: "invalid SPIFFE ID: reason".
    """

    def bad(reason: str) -> InputError:
        return InputError(f"invalid SPIFFE ID {shown(text)}: {reason}")

    if len(text) > MAX_SPIFFE_ID:
        raise bad(f"{len(text)} characters, at most {MAX_SPIFFE_ID} are allowed")
    if not text.startswith("spiffe://"):
        raise bad("it does not start with spiffe://")
    parts = text[len("spiffe://") :].split("/")
    if len(parts) != 3:
        raise bad("expected spiffe://TRUST-DOMAIN/ROLE/NAME")
    trust_domain, role, name = parts
    found = next((r for r in ROLES if r == role), None)
    if found is None:
        raise bad(f"role {shown(role)} is not one of {', '.join(ROLES)}")
    try:
        canonical = SpiffeId(parse_domain(trust_domain), found, parse_host(name))
    except InputError as exc:
        raise bad(exc.what) from None
    if str(canonical) != text:
        raise bad("it is not in canonical form")
    return canonical
