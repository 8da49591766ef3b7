"""I/O: placement of a gateway on disk, host by host."""

from __future__ import annotations

from pathlib import Path

from agents.knowledge.placement import PlacementFile
from agents.knowledge.placement_rows import FILE, PlacementRows, load_rows, placement_of
from agents.operating.home_snapshot import load_placement
from inventory.health import HealthByHost
from inventory.model import Health, Host, Presence
from inventory.snapshot import Snapshot
from tests.support.estates import instance, snapshot

WEB = instance("web", "vm1")


def placed() -> Snapshot:
    hosts = [Host(name="vm1", serves=("web",)), Host(name="vm2")]
    return snapshot(hosts, reported={"vm1": (WEB,)}).evolved(
        presence={"vm1": Presence(host="vm1", online=True), "vm2": Presence(host="vm2")},
        health=HealthByHost({WEB.id: Health(state="failing", reason="down")}),
    )


def save(rows: PlacementRows, now: Snapshot, *hosts: str, at: float = 17.5) -> None:
    rows.save([(host, placement_of(now, host)) for host in hosts], at=at)


def test_placement_comes_back_and_a_change_writes_its_host_alone(tmp_path: Path) -> None:
    assert load_rows(tmp_path) is None
    rows = PlacementRows(tmp_path)
    assert rows.load() == PlacementFile()
    save(rows, placed(), "vm1", "vm2")
    rows.close()
    rows = PlacementRows(tmp_path)
    kept = rows.load()
    assert (kept.presence, kept.reported, kept.health) == (placed().presence, placed().reported, placed().health)
    save(rows, placed().evolved(reported={}, health=HealthByHost(), presence={}), "vm1", at=18.0)
    rows.close()
    kept = load_placement(tmp_path)
    assert kept == PlacementFile(at=18.0, presence={"vm2": Presence(host="vm2")})


def test_a_damaged_file_is_thrown_away(tmp_path: Path) -> None:
    for damage in (b"no database", b"SQLite format 3\0" + b"x" * 200):
        (tmp_path / FILE).write_bytes(damage)
        (tmp_path / FILE).chmod(0o600)
        assert load_placement(tmp_path) == PlacementFile()
        rows = PlacementRows(tmp_path)
        assert rows.load() == PlacementFile()
        save(rows, placed(), "vm1")
        rows.close()
        assert load_placement(tmp_path).reported == {"vm1": (WEB,)}


def test_a_row_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    rows = PlacementRows(tmp_path)
    save(rows, placed(), "vm1")
    rows._connection.execute("UPDATE records SET value = '{' WHERE key = 'host/vm1'")
    rows.close()
    rows = PlacementRows(tmp_path)
    assert rows.load() == PlacementFile()
    rows.close()
