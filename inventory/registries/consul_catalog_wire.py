"""Pure: entries of Consul's catalog (nodes, services, checks), their mark, and the JSON that reads and changes them.

An entry is ours when it has the mark of our estate: in the metadata of a node or a service, in the notes of a check.
Every change requires the version that was read, 0 for what is not there yet, so one that anybody else has made or
changed meanwhile fails instead of being overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from inventory.registries.consul_wire import ANSWER_MAX
from inventory.strict_json import decode

DOMAIN, ESTATE = "meshbridge-domain", "meshbridge-estate"
"""Metadata that make the mark: the trust domain, and the start of the fingerprint of its genesis entry."""
OPERATIONS_MAX = 63
"""Of one transaction; Consul takes 64, and one looks whether we still hold the lock."""
BYTES_MAX = 256 * 1024
"""Of one transaction; Consul's limit is 512 KiB unless it was set."""
STALE = "index is stale"
DENIED = "Permission denied"

Kind = Literal["node", "service", "check"]


class Key(NamedTuple):
    kind: Kind
    node: str
    id: str = ""
    """Of a service or a check on the node."""


class Mark(NamedTuple):
    domain: str
    estate: str

    @property
    def meta(self) -> dict[str, str]:
        return {DOMAIN: self.domain, ESTATE: self.estate}

    @property
    def notes(self) -> str:
        return f"meshbridge {self.domain} {self.estate}"

    def is_in(self, meta: Mapping[str, str]) -> bool:
        return meta.get(DOMAIN) == self.domain and meta.get(ESTATE) == self.estate


class Node(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    meta: dict[str, str]

    @property
    def key(self) -> Key:
        return Key("node", self.name)

    def is_ours(self, mark: Mark) -> bool:
        return mark.is_in(self.meta)

    def json(self, version: int) -> dict[str, Any]:
        return {"Node": self.name, "Address": self.address, "Meta": self.meta, "ModifyIndex": version}


class Service(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    id: str
    name: str
    address: str
    port: int
    tags: tuple[str, ...]
    meta: dict[str, str]
    weights: tuple[int, int] = (1, 1)
    """For Consul DNS: while passing, while warning."""

    @property
    def key(self) -> Key:
        return Key("service", self.node, self.id)

    def is_ours(self, mark: Mark) -> bool:
        return mark.is_in(self.meta)

    def json(self, version: int) -> dict[str, Any]:
        passing, warning = self.weights
        return {
            "ID": self.id,
            "Service": self.name,
            "Address": self.address,
            "Port": self.port,
            "Tags": self.tags,
            "Meta": self.meta,
            "Weights": {"Passing": passing, "Warning": warning},
            "ModifyIndex": version,
        }


class Check(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    id: str
    name: str
    status: str
    notes: str
    output: str
    service_id: str = ""
    """Of the service that it is about; empty: it is about the node."""
    service_name: str = ""

    @property
    def key(self) -> Key:
        return Key("check", self.node, self.id)

    def is_ours(self, mark: Mark) -> bool:
        return self.notes == mark.notes

    def json(self, version: int) -> dict[str, Any]:
        return {
            "Node": self.node,
            "CheckID": self.id,
            "Name": self.name,
            "Status": self.status,
            "Notes": self.notes,
            "Output": self.output,
            "ServiceID": self.service_id,
            "ServiceName": self.service_name,
            "ModifyIndex": version,
        }


Entry = Node | Service | Check


class Found(NamedTuple):
    """An entry as Consul has it."""

    entry: Entry
    version: int


class Operation(NamedTuple):
    """Write `entry`, or remove it, if its version in Consul is `version`; 0: it is not there."""

    entry: Entry
    version: int
    removes: bool = False

    @property
    def key(self) -> Key:
        return self.entry.key

    @property
    def json(self) -> dict[str, Any]:
        # Consul wants the whole of an entry even to remove it: its name decides about the right to.
        verb, body = "delete-cas" if self.removes else "cas", self.entry.json(self.version)
        match self.entry:
            case Node():
                return {"Node": {"Verb": verb, "Node": body}}
            case Service():
                return {"Service": {"Verb": verb, "Node": self.entry.node, "Service": body}}
            case Check():
                return {"Check": {"Verb": verb, "Check": body}}


def encode_transaction(lock: str, session: str, operations: Sequence[bytes]) -> bytes:
    """`operations` (JSON of `Operation.json`), as long as `session` holds the lock: whoever lost it changes nothing."""
    fence = {"KV": {"Verb": "check-session", "Key": lock, "Session": session}}
    return b"[" + b",".join([msgspec.json.encode(fence), *operations]) + b"]"


# --- what Consul answers ----------------------------------------------------------------------------------------------


class _Node(msgspec.Struct, frozen=True, rename="pascal"):
    node: str
    address: str = ""
    meta: dict[str, str] | None = None
    modify_index: int = 0

    def found(self) -> Found:
        return Found(Node(name=self.node, address=self.address, meta=self.meta or {}), self.modify_index)


class _Weights(msgspec.Struct, frozen=True, rename="pascal"):
    passing: int = 1
    warning: int = 1


class _ServiceOnNode(msgspec.Struct, frozen=True, rename="pascal"):
    """As in the answer for one service name."""

    node: str
    service_name: str
    service_id: str = msgspec.field(name="ServiceID")
    service_address: str = ""
    service_port: int = 0
    service_tags: tuple[str, ...] | None = None
    service_meta: dict[str, str] | None = None
    service_weights: _Weights | None = None
    modify_index: int = 0

    def found(self) -> Found:
        weights = self.service_weights or _Weights()
        service = Service(
            node=self.node,
            id=self.service_id,
            name=self.service_name,
            address=self.service_address,
            port=self.service_port,
            tags=self.service_tags or (),
            meta=self.service_meta or {},
            weights=(weights.passing, weights.warning),
        )
        return Found(service, self.modify_index)


class _Service(msgspec.Struct, frozen=True, rename="pascal"):
    """As in the answer for one node."""

    service: str
    id: str = msgspec.field(name="ID")
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] | None = None
    meta: dict[str, str] | None = None
    weights: _Weights | None = None
    modify_index: int = 0

    def found(self, node: str) -> Found:
        weights = self.weights or _Weights()
        service = Service(
            node=node,
            id=self.id,
            name=self.service,
            address=self.address,
            port=self.port,
            tags=self.tags or (),
            meta=self.meta or {},
            weights=(weights.passing, weights.warning),
        )
        return Found(service, self.modify_index)


class _Check(msgspec.Struct, frozen=True, rename="pascal"):
    node: str
    name: str = ""
    status: str = ""
    notes: str = ""
    output: str = ""
    check_id: str = msgspec.field(name="CheckID", default="")
    service_id: str = msgspec.field(name="ServiceID", default="")
    service_name: str = ""
    modify_index: int = 0

    def found(self) -> Found:
        check = Check(
            node=self.node,
            id=self.check_id,
            name=self.name,
            status=self.status,
            notes=self.notes,
            output=self.output,
            service_id=self.service_id,
            service_name=self.service_name,
        )
        return Found(check, self.modify_index)


class _NodeWithServices(msgspec.Struct, frozen=True, rename="pascal"):
    node: _Node
    services: dict[str, _Service] | None = None


class _Result(msgspec.Struct, frozen=True):
    """Of an operation that wrote something; Consul says the versions that the entries have now."""

    node: _Node | None = msgspec.field(name="Node", default=None)
    check: _Check | None = msgspec.field(name="Check", default=None)
    service: _Service | None = msgspec.field(name="Service", default=None)


class Failure(msgspec.Struct, frozen=True):
    operation: int = msgspec.field(name="OpIndex", default=0)
    what: str = msgspec.field(name="What", default="")


class _Answer(msgspec.Struct, frozen=True, rename="pascal"):
    results: list[_Result] | None = None
    errors: list[Failure] | None = None


class Outcome(NamedTuple):
    """Of one transaction: the versions that Consul gave, in the order of the operations that wrote; or what failed,
    with numbers that count from the first operation after the fence, which is -1."""

    versions: tuple[int, ...]
    failures: tuple[Failure, ...]


def read_outcome(body: bytes) -> Outcome:
    """Raises InputError."""
    answer = decode(body, _Answer, max_bytes=ANSWER_MAX, what="answer to a transaction")
    written = (result.node or result.service or result.check for result in answer.results or ())
    failures = tuple(Failure(failure.operation - 1, failure.what) for failure in answer.errors or ())
    return Outcome(tuple(entry.modify_index for entry in written if entry is not None), failures)


def read_nodes(body: bytes) -> list[Found]:
    return [node.found() for node in decode(body, list[_Node], max_bytes=ANSWER_MAX, what="list of nodes")]


def read_services(body: bytes) -> list[Found]:
    """Of one name, on whatever nodes."""
    listed = decode(body, list[_ServiceOnNode], max_bytes=ANSWER_MAX, what="list of services")
    return [service.found() for service in listed]


def read_checks(body: bytes) -> list[Found]:
    return [check.found() for check in decode(body, list[_Check], max_bytes=ANSWER_MAX, what="list of checks")]


def read_names(body: bytes) -> frozenset[str]:
    """Of services."""
    return frozenset(decode(body, dict[str, Any], max_bytes=ANSWER_MAX, what="names of services"))


def read_node(body: bytes) -> list[Found]:
    """One node and its services; nothing when it is not there (or may not be seen)."""
    answer = decode(body, _NodeWithServices | None, max_bytes=ANSWER_MAX, what="node")  # type: ignore[arg-type]
    if answer is None:
        return []
    return [answer.node.found(), *(service.found(answer.node.node) for service in (answer.services or {}).values())]
