"""Pure: what exists, as immutable values. Authority signs Host, Reach, Gateway, Client, Import, Publication and
Instance; the rest is placement.

Every field was parsed before it came here (see `names`, `endpoints`), so code that holds one of these never checks
a name again. None can be part of a cycle, so none is the garbage collector's business (`gc=False`): a gateway holds
100,000 of them, and a walk over all would stop everything for half a second.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Host(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A machine in the estate, as the operator signed it. `serves` are the services it may offer by its own word."""

    name: str
    labels: dict[str, str] = {}
    site: str | None = None
    serves: tuple[str, ...] = ()
    draining: str | None = None
    """Why no new streams go to or from it; None when in service."""
    serving_only: bool = False
    """The drain is of what it serves: its own programs go on calling."""
    via: str | None = None
    """The gateway that reaches it, where no agent runs; None: an agent host."""

    @property
    def why_silent(self) -> str | None:
        """Why no new streams come from it; None when they may."""
        return None if self.serving_only else self.draining


class Allowance(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Old cryptography, allowed on the way to one host for a time (see `reach`)."""

    profiles: tuple[str, ...]
    owner: str
    """Who answers for it."""
    until: str
    """The last day, `YYYY-MM-DD`, UTC."""


class Reach(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a gateway reaches an agentless host. Only gateways hold it: it is never sent to a host."""

    host: str
    gateway: str
    url: str
    """In canonical form (see `reach`)."""
    host_keys: tuple[str, ...] = ()
    """Lines of OpenSSH's, `ssh-ed25519 AAAA...`: the only keys that its sshd may show. After `@cert-authority `, a key
    that may vouch for them."""
    credential: str | None = None
    """A private key, sealed to the gateway (base64); None: a certificate by that gateway's own ssh CA."""
    ca: str | None = None
    """PEM: who may vouch for the host's TLS certificate; None: those that the gateway's machine trusts."""
    allow_loopback: bool = False
    """Whether it may be on the gateway's own machine (tcp, tls)."""
    allowance: Allowance | None = None


class Gateway(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    address: str
    """`ADDR:PORT` that other nodes dial."""
    site: str | None = None
    issuer: bool = False
    """Whether it may be given the issuer's key when it enrols."""


class Instance(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One place that serves a service: a target that the agent of `host` connects to."""

    service: str
    host: str
    """Or `gateway:NAME`, for an import (see `imports`)."""
    target: str
    """`ADDR:PORT`, dialled from `host`."""
    port: int
    """The service's port on its loopback address, the same for all its instances."""
    check: str | None = None
    """A check spec (see agents/checks); None means a plain TCP connect."""
    weight: int = 1
    labels: dict[str, str] = {}
    draining: str | None = None
    proxy_protocol: bool = False
    """Whether it is told who calls, by a header before the first byte (see bridge/proxy_protocol.py)."""
    max_streams: int | None = None
    """How many it takes at once, from all callers together; None: as many as come."""
    max_rate: int | None = None
    """How many new ones it takes in any second."""

    @property
    def id(self) -> str:
        """Unique in the estate: `web/vm1/127.0.0.1:9000`."""
        return f"{self.service}/{self.host}/{self.target}"


class Import(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A service that others registered in Consul, as the operator lets one gateway bring it into the namespace."""

    service: str
    """Its name here."""
    gateway: str
    source: str
    """Its name in Consul."""
    tags: tuple[str, ...] = ()
    """Only what Consul lists with all of these."""
    port: int | None = None
    """Its port here; None: that of its instances."""
    labels: dict[str, str] = {}
    allow_loopback: bool = False
    """Whether instances may be on the gateway's own machine."""
    max_streams: int | None = None
    max_rate: int | None = None
    """Of each of its instances (see Instance)."""

    @property
    def id(self) -> str:
        """Unique in the estate: `web/gw1`."""
        return f"{self.service}/{self.gateway}"

    @property
    def check(self) -> str:
        """Where its instances come from. Each carries it, so that none outlives the import that it was found for."""
        return " ".join((f"consul:{self.source}", *self.tags))


class Client(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody who knows nothing of us and connects to a gateway's port, as the operator signed it."""

    name: str
    gateways: tuple[str, ...]
    """Those that may speak for it. Nobody else's word that it calls is taken."""
    labels: dict[str, str] = {}


class Admission(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a client is known. Only gateways hold it. Where there are both sources and certificates, both must fit."""

    client: str
    sources: tuple[str, ...] = ()
    """CIDRs that it calls from, in canonical form."""
    certificates: dict[str, str] = {}
    """SHA-256 of a certificate's SPKI DER in hex -> the certificate, PEM."""


class Publication(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A service at a place where clients find it: a port of a gateway, or one on an ssh host's own loopback."""

    service: str
    gateway: str | None = None
    listen: str | None = None
    """`ADDR:PORT` that this gateway listens on."""
    tls: bool = False
    """Whether clients of the gateway speak TLS and show a certificate."""
    host: str | None = None
    port: int | None = None
    """On this host's loopback."""

    @property
    def id(self) -> str:
        """Unique in the estate: `web/gateway:gw1/10.0.0.1:80`, or `web/aix1/8080`."""
        place = f"gateway:{self.gateway}/{self.listen}" if self.gateway is not None else f"{self.host}/{self.port}"
        return f"{self.service}/{place}"


class Health(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a checker last said of one instance."""

    state: Literal["passing", "failing", "unknown"] = "unknown"
    reason: str = ""


class Presence(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Where a host is now, as its gateway reports it. Not authority: the far end proves who it is."""

    host: str
    online: bool = False
    advertise: str | None = None
    """`ADDR:PORT` at which its agent can be dialled directly; None: only through a gateway."""
    gateways: tuple[str, ...] = ()
    """Names of the gateways that hold a control connection of it."""


class Service(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A name in the namespace with its instances, in a stable order. Derived, never stored."""

    name: str
    port: int
    instances: tuple[Instance, ...] = ()
