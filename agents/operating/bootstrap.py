"""I/O: makes a trust domain: keys, root, issuer, registry with its first entries, and the first gateway's identity.

Everything is made in a directory beside the home and renamed into place at the end, so there is a whole estate or none.
It is removed when that fails. One left by a killed run is made anew by the next; its keys never meant anything to
anybody. A registry in Consul is `filling` until the home is whole, and is made anew in the same way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents import clock
from agents.estate import Home, HomeConfig, check_certificate_lifetime, load_config, store_config
from agents.knowledge.key_holders import claim_key
from agents.knowledge.verified_log import VerifiedLog
from bridge import limits
from bridge.dns.addresses import DEFAULT_SLICE
from bridge.identity import certificates
from bridge.identity.certificates import PrivateKey
from bridge.identity.identity_file import store_identity
from bridge.identity.issuer import Issuer, make_csr
from inventory.authority import (
    DomainBody,
    Enrolment,
    GatewayBody,
    OperatorKey,
    SignedEntry,
    append,
    genesis_fingerprint,
)
from inventory.endpoints import Endpoint, bound_for, parse_endpoint
from inventory.errors import InputError, MeshError, Unavailable
from inventory.home import HomeLock, lock_home, make_home, write_secret
from inventory.model import Gateway
from inventory.names import SpiffeId, parse_domain, parse_gateway, shown
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.embedded import open_embedded
from inventory.registries.interface import Change, Registry

_FIRST_ENTRIES = 2
"""In the log of a new estate: its domain and its first gateway."""
_NOT_EMPTY = frozenset({errno.ENOTEMPTY, errno.EEXIST})
_MOUNTED = frozenset({errno.EBUSY, errno.EXDEV})
"""What a rename onto a mount point says; a bind mount cannot be told beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEstate:
    """What `init` is asked for, in canonical form from birth."""

    trust_domain: str
    gateway: str
    address: str
    """`ADDR:PORT` that other nodes dial."""
    listen: str
    """`ADDR:PORT` that the gateway binds."""
    operator_name: str
    namespace: str = "bridge.internal"
    certificate_lifetime: float = limits.CERTIFICATE_LIFETIME
    consul: ConsulPlace | None = None
    """Where the registry is to be; None: in the home."""

    def __post_init__(self) -> None:
        """Raises InputError."""
        pairs = (
            (self.trust_domain, parse_domain(self.trust_domain)),
            (self.namespace, parse_domain(self.namespace)),
            (self.gateway, parse_gateway(self.gateway)),
            (self.address, str(parse_endpoint(self.address))),
            (self.listen, str(parse_endpoint(self.listen))),
        )
        for given, canonical in pairs:
            if given != canonical:
                raise InputError(f"{given} is not in canonical form", hint=f"write it as {canonical}")
        check_certificate_lifetime(self.certificate_lifetime)


def parse_named_gateway(text: str) -> tuple[str, Endpoint]:
    """`NAME=ADDR:PORT`. Raises InputError, which says which of the two parts is missing."""
    name, equals, address = text.partition("=")
    if not equals:
        missing = "a name" if ":" in text else "an address"
        hint = "write NAME=ADDR:PORT, like gw1=192.0.2.1:7443"
        raise InputError(f"the gateway {shown(text)} lacks {missing}", hint=hint)
    return parse_gateway(name), parse_endpoint(address)


def new_estate(
    *,
    domain: str,
    gateway: str,
    operator_name: str,
    namespace: str = "bridge.internal",
    listen: str | None = None,
    certificate_lifetime: float = limits.CERTIFICATE_LIFETIME,
    consul: ConsulPlace | None = None,
) -> NewEstate:
    """From what a person writes; `gateway` is `NAME=ADDR:PORT`.

    Raises:
        InputError: a part cannot be used.
    """
    named, endpoint = parse_named_gateway(gateway)
    bound = parse_endpoint(listen) if listen is not None else bound_for(endpoint)
    return NewEstate(
        trust_domain=parse_domain(domain),
        gateway=named,
        address=str(endpoint),
        listen=str(bound),
        operator_name=operator_name,
        namespace=parse_domain(namespace),
        certificate_lifetime=certificate_lifetime,
        consul=consul,
    )


async def init(home: Path, estate: NewEstate) -> HomeConfig:
    """Makes the estate in `home`, whole or not at all.

    Raises:
        InputError: there is an estate or anything else in it already.
        Unavailable: it cannot be written, another `init` is at work on it, or Consul is away.
    """
    home, building = _places(home)
    make_home(building)
    with _lock_building(building):
        try:
            own = estate.consul is not None and await _is_own_leftover(building, estate.consul)
            _clear(building)
            config = await _build(building, estate, over_leftover=own)
            await _finish(building, home, estate.consul)
        except BaseException:
            # Interrupted, or the disk is full: what is half made is of no use to anybody, and holds keys.
            shutil.rmtree(building, ignore_errors=True)
            raise
    return config


def _lock_building(building: Path) -> HomeLock:
    try:
        return lock_home(building)
    except MeshError:
        with contextlib.suppress(OSError):
            building.rmdir()  # nothing is in it if not even a lock could be made: the disk is full
        raise


def _places(home: Path) -> tuple[Path, Path]:
    """The home, which must be free, and where it is made."""
    real = home.resolve()
    _refuse_occupied(real)
    if real.is_mount():
        raise _mount_point(real)
    return real, real.parent / f".{real.name}.init"


def _mount_point(home: Path) -> InputError:
    return InputError(
        "this is a mount point, and a whole estate cannot be renamed into its place",
        where=str(home),
        hint=f"choose a directory in it: --home {home / 'meshbridge'}",
    )


def _refuse_occupied(home: Path) -> None:
    try:
        occupied = any(home.iterdir())
    except FileNotFoundError:
        return
    except OSError as exc:
        raise Unavailable(f"cannot be read: {exc.strerror}", where=str(home), hint="choose another --home") from None
    if Home(home).has_estate:
        raise InputError("there is an estate in this home already", where=str(home), hint="choose another --home")
    if occupied:
        raise InputError(
            "this home is not empty", where=str(home), hint="choose another --home, or move its files away first"
        )


def _clear(directory: Path) -> None:
    """What a killed run left, but for the lock that is held."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()


async def _is_own_leftover(building: Path, place: ConsulPlace) -> bool:
    """Whether a killed run got as far as a whole registry in Consul, and no further: nobody else can have used it."""
    from agents.consul import open_consul

    try:
        config = load_config(building)
        async with open_consul(place) as registry:
            log = VerifiedLog(registry, config.genesis)
            await log.refresh()
            return log.state.number == _FIRST_ENTRIES
    except MeshError:
        return False


async def _finish(building: Path, home: Path, place: ConsulPlace | None) -> None:
    """The registry in Consul is somebody's from here on; the home a moment later, or else neither."""
    if place is None:
        _move_into_place(building, home)
        return
    from agents.consul import open_consul

    async with open_consul(place) as registry:
        await registry.store.become("ready")
        try:
            _move_into_place(building, home)
        except MeshError:
            await registry.store.become("filling")
            raise


@asynccontextmanager
async def _new_registry(home: Home, place: ConsulPlace | None, *, over_leftover: bool) -> AsyncIterator[Registry]:
    if place is None:
        async with open_embedded(home.registry) as embedded:
            yield embedded
        return
    from agents.consul import open_consul

    async with open_consul(place) as registry:
        await registry.store.begin(over="ready" if over_leftover else None)
        yield registry


async def _build(directory: Path, estate: NewEstate, *, over_leftover: bool) -> HomeConfig:
    now = clock.now()
    operator, root_key = OperatorKey.generate(), certificates.generate_key()
    root = certificates.create_root(root_key, estate.trust_domain, now=now)
    root_pem = certificates.to_pem(root)
    issuer_key = certificates.generate_key()
    issuer_certificate = certificates.create_intermediate(
        issuer_key.public_key(), root_key=root_key, root=root, now=now
    )
    home = Home(directory)
    write_secret(home.operator_key, operator.to_bytes())
    write_secret(home.root_key, (certificates.private_key_pem(root_key) + root_pem).encode())
    issuer_pem = certificates.private_key_pem(issuer_key) + certificates.to_pem(issuer_certificate)
    write_secret(home.issuer, issuer_pem.encode())
    async with _new_registry(home, estate.consul, over_leftover=over_leftover) as registry:
        genesis, key = await _write_registry(registry, estate, operator=operator, root_pem=root_pem, now=now)
    spiffe = SpiffeId(estate.trust_domain, "gateway", estate.gateway)
    issued = Issuer(issuer_key, issuer_certificate).issue(
        make_csr(key), spiffe, now=now, lifetime=estate.certificate_lifetime
    )
    store_identity(home.identity, key, issued.chain_pem, spiffe=spiffe, root_pem=root_pem, now=now)
    config = HomeConfig(
        role="gateway",
        name=estate.gateway,
        trust_domain=estate.trust_domain,
        genesis=genesis_fingerprint(genesis),
        gateways=(Gateway(name=estate.gateway, address=estate.address),),
        listen=estate.listen,
        addresses=str(DEFAULT_SLICE),
        certificate_lifetime=estate.certificate_lifetime,
        consul=estate.consul,
    )
    store_config(directory, config)
    return config


async def _write_registry(
    registry: Registry, estate: NewEstate, *, operator: OperatorKey, root_pem: str, now: float
) -> tuple[SignedEntry, PrivateKey]:
    """The log's first entries, and the first gateway's key on record as an enrolled one is."""
    key = certificates.generate_key()
    bodies = (
        DomainBody(
            trust_domain=estate.trust_domain,
            namespace=estate.namespace,
            root_certificate=root_pem,
            operator_name=estate.operator_name,
        ),
        GatewayBody(gateway=Gateway(name=estate.gateway, address=estate.address, issuer=True)),
    )
    key_hash = certificates.key_hash(key.public_key())
    spiffe = SpiffeId(estate.trust_domain, "gateway", estate.gateway)
    enrolment = Enrolment(role="gateway", name=estate.gateway, key=key_hash, at=int(now), source="init", invite="init")
    entries = await append(registry, operator, bodies, message="init", now=now)
    assert len(entries) == _FIRST_ENTRIES
    await claim_key(registry, key_hash, spiffe, now=now)
    await registry.transact([Change(f"enrolled/gateway/{estate.gateway}", 0, msgspec.json.encode(enrolment))])
    return entries[0], key


def _move_into_place(building: Path, home: Path) -> None:
    """The moment at which the estate exists. The lock goes along with its directory."""
    try:
        _sync(building)
        building.rename(home)
        _sync(home.parent)
    except OSError as exc:
        if exc.errno in _NOT_EMPTY:
            _refuse_occupied(home)
        if exc.errno in _MOUNTED:
            raise _mount_point(home) from None
        raise Unavailable(f"cannot be put into place: {exc.strerror}", where=str(home)) from None


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
