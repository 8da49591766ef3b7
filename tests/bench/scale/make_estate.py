"""I/O: a large estate, made with the library: what a thousand `host add` and `agent join` would leave, in seconds.

    FOLDER/hosts/<name>.pem     identity of each simulated host: key, certificate, intermediate
    FOLDER/start.json           what a simulated host knows before it connects: the genesis entry and the gateways

The gateway's home and registry are those of a real `init`; entries are signed with its operator's key, certificates
with its issuer's.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from agents import clock
from agents.estate import Home, Operator, load_config, operate
from agents.knowledge.key_holders import Holder
from agents.knowledge.ledger import POLICY_PREFIX
from bridge import limits
from bridge.identity import certificates
from bridge.identity.issuer import Issuer, make_csr
from inventory.authority import Enrolment, HostBody, InviteBody, SignedEntry, read_log, secret_hash
from inventory.authority.log import NUMBER_MARK
from inventory.home import read_secret
from inventory.model import Gateway, Host
from inventory.names import SpiffeId
from inventory.policy_document import build
from inventory.policy_rules import Rule
from inventory.registries.interface import Change, Registry
from tests.bench.scale.shape import Shape, policy_text

T = TypeVar("T")

_BATCH = 500
"""Hosts in one transaction."""


class Start(msgspec.Struct, frozen=True):
    """start.json."""

    trust_domain: str
    fingerprint: str
    root_certificate: str
    genesis: SignedEntry
    gateways: tuple[Gateway, ...]


async def populate(home: Path, shape: Shape, folder: Path) -> None:
    """Record, invite and enrol every host of the shape; apply its policy; write what the hosts start from."""
    async with operate(home) as operator:
        issuer = Issuer.from_pem(read_secret(Home(home).issuer).decode())
        (folder / "hosts").mkdir(parents=True)
        for hosts in _batches(shape.all_hosts(), _BATCH):
            await _enrol(operator, hosts, issuer, folder / "hosts")
        await apply_rules(operator, shape.policy, "the first policy")
        genesis = (await read_log(operator.registry))[0]
        start = Start(
            trust_domain=operator.state.trust_domain,
            fingerprint=load_config(home).genesis,
            root_certificate=operator.state.root_certificate,
            genesis=genesis,
            gateways=tuple(operator.state.gateways.values()),
        )
        (folder / "start.json").write_bytes(msgspec.json.encode(start))


async def apply_rules(operator: Operator, rules: tuple[Rule, ...], message: str) -> None:
    """As `policy apply` does with a file."""
    body, document = build(rules, policy_text(rules))
    attachments = {f"{POLICY_PREFIX}{NUMBER_MARK}": msgspec.json.encode(document)}
    await operator.append(lambda _: [body], message=message, attachments=attachments)


async def _enrol(operator: Operator, hosts: Sequence[Host], issuer: Issuer, folder: Path) -> None:
    """Sign the entries of these hosts and leave what their enrolment would have left."""
    now = clock.now()
    invites = [
        InviteBody(
            id=secrets.token_hex(8),
            role="host",
            name=host.name,
            secret_hash=secret_hash(secrets.token_bytes(32)),
            expires_at=int(now + limits.TOKEN_LIFETIME),
        )
        for host in hosts
    ]
    bodies = [body for pair in zip((HostBody(host=host) for host in hosts), invites, strict=True) for body in pair]
    await operator.append(lambda _: bodies, message=f"{len(hosts)} hosts")
    changes: list[Change] = []
    for host, invite in zip(hosts, invites, strict=True):
        spiffe = SpiffeId(operator.state.trust_domain, "host", host.name)
        key = _identity(issuer, spiffe, folder / f"{host.name}.pem", now)
        enrolment = Enrolment(role="host", name=host.name, key=key, at=int(now), source="127.0.0.1", invite=invite.id)
        record = msgspec.json.encode(enrolment)
        holder = msgspec.json.encode(Holder(spiffe_id=str(spiffe), at=int(now)))
        changes += [
            Change(f"spent/{invite.id}", 0, record),
            Change(f"enrolled/host/{host.name}", 0, record),
            Change(f"holder/{key}", 0, holder),
        ]
    await _transact(operator.registry, changes)


async def _transact(registry: Registry, changes: Sequence[Change]) -> None:
    await registry.transact(changes)


def _identity(issuer: Issuer, spiffe: SpiffeId, path: Path, now: float) -> str:
    """A key and its certificate in one file; the hash of the key."""
    key = certificates.generate_key()
    issued = issuer.issue(make_csr(key), spiffe, now=now, lifetime=limits.CERTIFICATE_LIFETIME)
    text = certificates.private_key_pem(key) + issued.chain_pem
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    return issued.record.key


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
