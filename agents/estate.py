"""I/O: what a home directory holds, whose it is, and how an operator's command changes the estate from it.

    operator.key  root.key  issuer.pem  registry.db     where the estate was made (no registry.db: it is in Consul)
    kept.db                                             a gateway's copy of what it needs of a registry in Consul
    identity.pem  domain.json                           every node
    authority.slice  addresses.json  services.toml      hosts
    admin.sock  lock  flows.jsonl                       while and after a node runs

domain.json is written last, when everything else is there: a home without it holds no estate, whatever else is in it.
Retries live here, because this is where operators' commands meet each other.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import trio

from agents import clock
from agents.admin.client import call
from agents.backoff import Backoff
from agents.knowledge.seen import OPERATOR_SEEN_FILE, Seen, furthest_seen, refuse_older, write_seen
from agents.knowledge.verified_log import VerifiedLog
from bridge import limits
from bridge.dns.addresses import DEFAULT_SLICE, parse_slice
from inventory.authority import AuthorityState, Body, OperatorKey, SignedEntry, append
from inventory.authority.entries import parse_hash
from inventory.endpoints import parse_endpoint
from inventory.errors import InputError, MeshError, Unavailable
from inventory.home import read_file, read_secret, write_file
from inventory.model import Gateway
from inventory.names import parse_domain, parse_gateway, parse_host
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.embedded import open_embedded
from inventory.registries.interface import Conflict, Registry
from inventory.strict_json import decode

_CONFIG_MAX_BYTES = 64 * limits.KIB


class HomeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """domain.json: whose home this is and how its node listens. Nothing in it is secret."""

    role: Literal["gateway", "host"]
    name: str
    trust_domain: str
    genesis: str
    """Fingerprint of the genesis entry, hex SHA-256: the one thing everything else is verified from."""
    gateways: tuple[Gateway, ...] = ()
    """Where to start; what the authority log says later counts more."""
    listen: str | None = None
    """`ADDR:PORT` for tunnels; None: this node is never dialled."""
    advertise: str | None = None
    """`ADDR:PORT` at which other hosts may dial it."""
    addresses: str = str(DEFAULT_SLICE)
    """The slice of 127.0.0.0/8 that service addresses are taken from."""
    dns: str | None = None
    """`ADDR:PORT` of the DNS server; None: the slice's first usable address, port 5300."""
    certificate_lifetime: float = limits.CERTIFICATE_LIFETIME
    """Seconds; of the certificates that this gateway issues."""
    consul: ConsulPlace | None = None
    """Where the registry is; None: in this home, when it is the one where the estate was made."""
    invite: str | None = None
    """Id of the token that this host enrolled with, so that using it again is seen to be done already."""

    def __post_init__(self) -> None:
        parse = parse_gateway if self.role == "gateway" else parse_host
        if parse(self.name) != self.name or parse_domain(self.trust_domain) != self.trust_domain:
            raise InputError("a name is not in canonical form")
        parse_hash(self.genesis, "genesis fingerprint")
        for gateway in self.gateways:
            parse_gateway(gateway.name)
            parse_endpoint(gateway.address)
        for address in (self.listen, self.advertise, self.dns):
            if address is not None:
                parse_endpoint(address, zero_ok=address != self.advertise)
        parse_slice(self.addresses)
        check_certificate_lifetime(self.certificate_lifetime)


def check_certificate_lifetime(seconds: float) -> None:
    """Raises InputError for what no issuer of ours can give."""
    least, most = limits.CERTIFICATE_LIFETIME_MIN, limits.INTERMEDIATE_LIFETIME
    if not least <= seconds <= most:
        given = f"{seconds / 86400:.0f} days" if seconds > most else f"{seconds:.0f} s"
        raise InputError(f"a certificate lifetime of {given} is not between {least:.0f} s and {most / 86400:.0f} days")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths in a home. Making one looks at nothing."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "domain.json"

    @property
    def operator_key(self) -> Path:
        return self.path / "operator.key"

    @property
    def root_key(self) -> Path:
        return self.path / "root.key"

    @property
    def issuer(self) -> Path:
        return self.path / "issuer.pem"

    @property
    def identity(self) -> Path:
        return self.path / "identity.pem"

    @property
    def registry(self) -> Path:
        return self.path / "registry.db"

    @property
    def kept(self) -> Path:
        """See `agents.knowledge.kept`."""
        return self.path / "kept.db"

    @property
    def slice(self) -> Path:
        return self.path / "authority.slice"

    @property
    def addresses(self) -> Path:
        return self.path / "addresses.json"

    @property
    def services(self) -> Path:
        return self.path / "services.toml"

    @property
    def admin_socket(self) -> Path:
        return self.path / "admin.sock"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def pending(self) -> Path:
        """An enrolment that was begun: its key, kept until the identity is complete."""
        return self.path / "enrolment.pending"

    @property
    def has_estate(self) -> bool:
        return self.config.exists()


def load_config(home: Path) -> HomeConfig:
    """Whose home this is.

    Raises:
        InputError: there is no estate in it, or domain.json is damaged.
        Unavailable: it cannot be read.
    """
    path = Home(home).config
    if not path.exists():
        raise InputError(
            "no estate in this home",
            where=str(home),
            hint="run `meshbridge init` or `meshbridge agent join`, or name the right one with --home",
        )
    try:
        return decode(read_file(path, _CONFIG_MAX_BYTES), HomeConfig, max_bytes=_CONFIG_MAX_BYTES, what="domain.json")
    except InputError as exc:
        raise InputError(exc.what, where=str(path), hint=exc.hint or "put the file back from a backup") from None


def store_config(home: Path, config: HomeConfig) -> None:
    """Writes domain.json, whole or not at all. Raises as `inventory.home.write_file` does."""
    write_file(Home(home).config, msgspec.json.format(msgspec.json.encode(config), indent=2) + b"\n")


def open_registry(home: Path) -> AbstractAsyncContextManager[Registry]:
    """The registry of the home where the estate was made: the one in it, or the one in Consul (not asked anything yet).

    Raises:
        InputError: this home has none.
        Unavailable: it is gone, or cannot be opened.
    """
    path = Home(home).registry
    config = load_config(home)
    if config.consul is not None:
        # Only here: its libraries take longer to load than most commands take to run.
        from agents.consul import open_consul

        return open_consul(config.consul)
    if not path.exists():
        if config.role == "host":
            raise InputError(
                f"this is the home of host {config.name}, which has no registry",
                where=str(home),
                hint="name the operator's home with --home",
            )
        raise Unavailable("the registry is gone", where=str(path), hint="put it back from its backup")
    return open_embedded(path)


Decide = Callable[[AuthorityState], Sequence[Body]]
"""What to say, given all that was said before. Called again when somebody else was faster."""


class Operator:
    """An operator at work: the key, the registry, and the verified state. Made by `operate`."""

    def __init__(
        self, home: Path, *, config: HomeConfig, key: OperatorKey, registry: Registry, log: VerifiedLog
    ) -> None:
        self.home = home
        self.config = config
        self.registry = registry
        self.log = log
        self._key = key

    @property
    def state(self) -> AuthorityState:
        return self.log.state

    async def append(
        self, decide: Decide, *, message: str, attachments: Mapping[str, bytes] | None = None
    ) -> list[SignedEntry]:
        """Signs what `decide` answers and appends it; a running gateway is told at once.

        Args:
            decide: a function of the state; an empty answer means that there is nothing to do.
            message: why, for the audit trail.
            attachments: as in `inventory.authority.append`.

        Raises:
            Conflict: others kept changing the log for APPEND_TRIES tries.
            MeshError: whatever `decide` raises; nothing was written then.
        """
        backoff = Backoff(rng=random.Random(), maximum=1.0)
        for attempt in range(limits.APPEND_TRIES):
            bodies = decide(self.state)
            if not bodies:
                return []
            try:
                signed = await append(
                    self.registry,
                    self._key,
                    bodies,
                    message=message,
                    now=clock.now(),
                    attachments=attachments,
                    state=self.state,
                )
            except Conflict:
                if attempt + 1 == limits.APPEND_TRIES:
                    raise
                await trio.sleep(backoff.next())
                await self.log.refresh()
                continue
            await self.log.refresh()
            if self.config.consul is not None:
                note_seen(self.home, self.state, None)
            await nudge(self.home)
            return signed
        raise AssertionError("APPEND_TRIES is not positive")


async def nudge(home: Path) -> None:
    """Tells a gateway that runs on this home to look at the registry now. Without one nothing is lost."""
    try:
        await call(home, "nudge", answer_within=limits.NUDGE_TIMEOUT)
    except MeshError:
        # It looks by itself once a second.
        return


def load_operator_key(home: Path, config: HomeConfig) -> OperatorKey:
    """The key that signs. Raises InputError when this home has none, or it is damaged or open to others."""
    path = Home(home).operator_key
    if not path.exists():
        whose = f"{config.role} {config.name}"
        raise InputError(
            f"this is the home of {whose} and holds no operator key",
            where=str(home),
            hint="run the command where `meshbridge init` was run, or name that home with --home",
        )
    try:
        return OperatorKey.from_bytes(read_secret(path))
    except InputError as exc:
        raise InputError(exc.what, where=str(path), hint=exc.hint) from None


@asynccontextmanager
async def inspect(
    home: Path, *, accepts_older: bool = False
) -> AsyncIterator[tuple[HomeConfig, Registry, VerifiedLog]]:
    """The registry and the verified log, to read.

    Args:
        accepts_older: also a registry in Consul that went back since this home saw it last: to look at what is there.

    Raises:
        InputError: no estate or no registry in this home, or a log that does not verify, or one that went back (F34).
        Unavailable: the registry cannot be opened.
    """
    config = load_config(home)
    async with open_registry(home) as registry:
        log = VerifiedLog(registry, config.genesis, collects=config.consul is not None)
        if config.consul is None:
            await log.refresh()
        else:
            seen = furthest_seen(home)  # before the log is read: others go on writing it
            await log.refresh()
            if not accepts_older:
                refuse_older(log, seen)
                note_seen(home, log.state, seen)
        yield config, registry, log


def note_seen(home: Path, state: AuthorityState, before: Seen | None) -> None:
    """Remembers how far a command has seen a registry that others hold. A command that did its work does not fail for
    it: the gateway remembers as well."""
    if before is None or state.number > before.number:
        with contextlib.suppress(MeshError):
            write_seen(home, state, OPERATOR_SEEN_FILE)


@asynccontextmanager
async def operate(home: Path) -> AsyncIterator[Operator]:
    """The operator's key, registry and state, for one command.

    Raises:
        InputError: no estate, no operator key, or a key that is no operator's any more.
        Unavailable: the registry cannot be opened.
    """
    config = load_config(home)
    key = load_operator_key(home, config)
    async with inspect(home) as (_, registry, log):
        if key.public not in log.state.operators:
            raise InputError(
                f"the key {key.public[:16]}… is not an operator of {config.trust_domain}",
                where=str(Home(home).operator_key),
                hint="ask an operator to add it, or put the right key there",
            )
        yield Operator(home, config=config, key=key, registry=registry, log=log)
