"""I/O: placement as a gateway keeps it on disk: a row for each host, so that a change writes what it touched.

It comes again from the hosts, so what is damaged is thrown away and never a reason not to start.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agents.knowledge.placement import PLACEMENT_MAX_BYTES, PlacementFile
from bridge.logs import get_logger
from inventory.errors import MeshError
from inventory.model import Health, Instance, Presence
from inventory.registries.interface import ANY, Change
from inventory.registries.sqlite_file import apply_changes, errors_of, open_file, read_prefix
from inventory.snapshot import Snapshot
from inventory.strict_json import decode

log = get_logger()

FILE = "placement.db"
_HOST = "host/"
_AT = "at"
_AT_MAX_BYTES = 64


class HostPlacement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row: where a host is, what it says it serves, and how its instances are."""

    presence: Presence | None = None
    reported: tuple[Instance, ...] = ()
    health: dict[str, Health] = {}


def placement_of(snapshot: Snapshot, host: str) -> HostPlacement:
    return HostPlacement(
        presence=snapshot.presence.get(host),
        reported=snapshot.reported.get(host, ()),
        health=dict(snapshot.health_on(host)),
    )


class PlacementRows:
    """The open file. Its functions block until it is done: they are called in worker threads, one at a time.

    Raises:
        MeshError: it cannot be opened, not even after a damaged one was thrown away.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        try:
            self._connection = self._open()
        except MeshError as exc:
            log.error("placement on disk cannot be used; hosts will report again", reason=str(exc))
            self._throw_away()
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = open_file(self._path)
        try:
            read_placement(connection, self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _throw_away(self) -> None:
        for companion in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + companion).unlink()

    def load(self) -> PlacementFile:
        """Raises MeshError."""
        return read_placement(self._connection, self._path)

    def save(self, rows: Iterable[tuple[str, HostPlacement]], *, at: float) -> None:
        """Write these hosts' rows, all or none of them. `at` is unix seconds. Raises Unavailable."""
        changes = [Change(_AT, ANY, msgspec.json.encode(at))]
        for host, placement in rows:
            value = None if placement == HostPlacement() else msgspec.json.encode(placement)
            changes.append(Change(_HOST + host, ANY, value))
        with errors_of(self._path):
            apply_changes(self._connection, changes)

    def close(self) -> None:
        self._connection.close()


def read_placement(connection: sqlite3.Connection, path: Path) -> PlacementFile:
    """Everything in the file. Raises InputError when a row is damaged."""
    with errors_of(path):
        records, _ = read_prefix(connection, "")
    presence: dict[str, Presence] = {}
    reported: dict[str, tuple[Instance, ...]] = {}
    health: dict[str, Health] = {}
    at = 0.0
    for key, record in records.items():
        if key == _AT:
            at = decode(record.value, float, max_bytes=_AT_MAX_BYTES, what="time of the placement on disk")
            continue
        host = key.removeprefix(_HOST)
        row = decode(record.value, HostPlacement, max_bytes=PLACEMENT_MAX_BYTES, what="placement on disk")
        if row.presence is not None:
            presence[host] = row.presence
        if row.reported:
            reported[host] = row.reported
        health.update(row.health)
    return PlacementFile(at=at, presence=presence, reported=reported, health=health)


def load_rows(home: Path) -> PlacementFile | None:
    """What a gateway of this home wrote last; None when there is no such file. Raises MeshError."""
    path = home / FILE
    if not path.exists():
        return None
    connection = open_file(path)
    try:
        return read_placement(connection, path)
    finally:
        connection.close()
