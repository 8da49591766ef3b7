"""I/O: `registry copy` takes an estate into Consul and out again, backup and restore work there; nothing is lost."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from agents.consul import open_consul
from agents.operating import registry_moves
from agents.operating.registry_moves import move_home, move_to_consul, values_of
from inventory.errors import InputError, MeshError, Unavailable
from inventory.registries import consul_http
from inventory.registries.consul_place import ConsulPlace
from inventory.registries.embedded import EmbeddedRegistry, open_embedded
from inventory.registries.interface import CHANGES_MAX
from tests.support.cli import CommandLine, operator_home
from tests.support.consul_server import ConsulServer, options

POLICY = "".join(
    f'[[allow]]\nname = "rule {number}"\nfrom = ["host:vm1"]\nto = ["service-{number}"]\n' for number in range(2000)
)
"""Its document is larger than one transaction of Consul's."""


@pytest.fixture
def op(tmp_path: Path) -> CommandLine:
    """An estate in a home, with more records than one transaction takes."""
    op = operator_home(tmp_path)
    op.ok("policy", "apply", "-", "-m", "test", input=POLICY)
    for number in range(3):
        op.ok("host", "add", f"vm{number}")
    return op


@pytest.fixture
def place(consul: ConsulServer) -> ConsulPlace:
    return consul.place(f"moves-{secrets.token_hex(4)}/")


def content(op: CommandLine, place: ConsulPlace | None = None) -> dict[str, bytes]:
    async def read() -> dict[str, bytes]:
        if place is None:
            async with open_embedded(op.home / "registry.db") as registry:
                return dict(await values_of(registry))
        async with open_consul(place, accepts_moved=True) as registry:
            return dict(await values_of(registry))

    return trio.run(read)


def into(op: CommandLine, place: ConsulPlace) -> dict[str, object]:
    found: dict[str, object] = op.json("registry", "copy", "--from", "embedded", "--to", "consul", *options(place))
    return found


def out_of(op: CommandLine) -> dict[str, object]:
    found: dict[str, object] = op.json("registry", "copy", "--from", "consul", "--to", "embedded")
    return found


def test_an_estate_goes_in_and_comes_back_with_all_it_had(op: CommandLine, place: ConsulPlace) -> None:
    before = content(op)
    assert max(map(len, before.values())) > 400_000
    moved = into(op, place)
    assert moved["records"] == len(before)
    assert not (op.home / "registry.db").exists()
    assert content(op, place) == before
    config = json.loads((op.home / "domain.json").read_text())
    assert config["consul"]["prefix"] == place.prefix
    assert place.token_file is not None
    assert Path(place.token_file).read_text().strip() not in (op.home / "domain.json").read_text()

    op.ok("host", "add", "vm7")
    assert "vm7" in op.ok("host", "list").out
    then = content(op, place)
    assert len(then) > len(before)

    out_of(op)
    assert content(op) == then
    assert "consul" not in json.loads((op.home / "domain.json").read_text())
    op.ok("host", "add", "vm8")

    into(op, place)  # over what was left there, closed
    assert "vm8" in op.ok("host", "list").out


def test_what_was_moved_away_takes_no_more_changes(op: CommandLine, place: ConsulPlace, tmp_path: Path) -> None:
    async def both_ways() -> None:
        async with open_embedded(op.home / "registry.db") as late:
            await move_to_consul(op.home, place)
            with pytest.raises(Unavailable, match="moved to Consul"):
                await late.transact([registry_moves.Change("late", 0, b"")])
        async with open_consul(place) as late:
            await late.get("head")
            await move_home(op.home)
            with pytest.raises(Unavailable, match="moved away"):
                await late.transact([registry_moves.Change("late", 0, b"")])

    trio.run(both_ways)
    assert "late" not in content(op)


def test_a_change_in_the_middle_of_a_move_stops_it(
    op: CommandLine, place: ConsulPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = registry_moves.fill

    async def fill_while_somebody_writes(*args: object, **options: object) -> None:
        await fill(*args, **options)  # type: ignore[arg-type]
        async with open_embedded(op.home / "registry.db") as other:
            await other.transact([registry_moves.Change("meanwhile", 0, b"")])

    with monkeypatch.context() as patched:
        patched.setattr(registry_moves, "fill", fill_while_somebody_writes)
        assert "changed meanwhile" in op.refused(
            69, "registry", "copy", "--from", "embedded", "--to", "consul", *options(place)
        )
    op.ok("host", "add", "vm5")  # the home is in use as before
    into(op, place)
    assert "meanwhile" in content(op, place)


def test_a_registry_of_somebody_else_is_left_alone(op: CommandLine, place: ConsulPlace, tmp_path: Path) -> None:
    copy = ("registry", "copy", "--from", "embedded", "--to", "consul", *options(place))
    into(op, place)
    (tmp_path / "other").mkdir()
    other = operator_home(tmp_path / "other")
    assert "there is a registry below this prefix already" in other.refused(64, *copy)
    assert "--consul-prefix" in other.refused(64, *copy)
    init = ("init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:17443", "--registry", "consul")
    third = CommandLine(tmp_path / "third")
    assert "already" in third.refused(64, *init, *options(place))
    assert not third.home.exists()
    assert "in this home already" in other.refused(64, "registry", "copy", "--from", "consul", "--to", "embedded")
    other.ok("host", "add", "vm1")


def test_other_keys_below_the_prefix_are_left_alone(op: CommandLine, place: ConsulPlace, consul: ConsulServer) -> None:
    consul.ask("PUT", f"/v1/kv/{place.prefix}theirs/1", b"x")
    said = op.refused(64, "registry", "copy", "--from", "embedded", "--to", "consul", *options(place))
    assert "something else below this prefix" in said
    assert consul.keys(place.prefix) == [f"{place.prefix}theirs/1"]


def test_a_running_gateway_is_in_the_way(op: CommandLine, place: ConsulPlace) -> None:
    from inventory.home import lock_home

    with lock_home(op.home):
        said = op.refused(69, "registry", "copy", "--from", "embedded", "--to", "consul", *options(place))
    assert "another meshbridge node runs in this home" in said
    assert (op.home / "registry.db").exists()


def test_f34_backup_and_restore_in_consul(op: CommandLine, place: ConsulPlace, tmp_path: Path) -> None:
    into(op, place)
    op.ok("host", "add", "vm6")
    kept = tmp_path / "backup.db"
    op.ok("registry", "backup", str(kept))
    op.ok("host", "add", "vm7")
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "entry 13 was seen here" in op.refused(64, "registry", "restore", str(kept)), "by a command"
    restored = op.json("registry", "restore", str(kept), "--past", "13")
    hosts = op.ok("host", "list").out
    assert "vm6" in hosts and "vm7" not in hosts
    assert (Path(restored["old_files"]) / "registry.db").exists(), "what was there is kept"
    voids = [key for key in content(op, place) if key.startswith("void/")]
    assert len(voids) == 4, "no token in a backup opens anything (C20)"


def test_a_change_of_too_many_records_is_refused_before_anything_is_written(place: ConsulPlace) -> None:
    async def too_many() -> None:
        async with open_consul(place) as registry:
            await registry.store.begin()
            change = registry_moves.Change
            await registry.transact([change(f"many/{n}", 0, b"x" * 20_000) for n in range(CHANGES_MAX)])
            with pytest.raises(InputError, match="at most 60"):
                await registry.transact([change(f"more/{n}", 0, b"") for n in range(CHANGES_MAX + 1)])
            assert len((await registry.read("m"))[0]) == CHANGES_MAX

    trio.run(too_many)


def test_a_large_value_replaced_by_a_conflict_leaves_no_chunks(place: ConsulPlace, consul: ConsulServer) -> None:
    big = bytes(range(256)) * 8192

    async def conflict() -> None:
        async with open_consul(place) as registry:
            await registry.store.begin()
            change = registry_moves.Change
            await registry.transact([change("big", 0, big), change("other", 0, big)])
            chunks = [key for key in consul.keys(place.prefix) if "/chunk/" in key]
            with pytest.raises(MeshError, match="changed meanwhile"):
                await registry.transact([change("big", 0, big + b"x")])
            assert [key for key in consul.keys(place.prefix) if "/chunk/" in key] == chunks
            record = await registry.get("big")
            assert record is not None and record.value == big

    trio.run(conflict)


def test_init_without_a_consul_that_answers_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "op"
    init = ("init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:17443", "--registry", "consul")
    said = CommandLine(home).refused(69, *init, "--consul-address", "http://127.0.0.1:1")
    assert "Consul cannot be reached: Connection refused" in said and "hint: start it" in said
    assert not list(tmp_path.iterdir())
    assert "needs --consul-address" in CommandLine(home).refused(2, *init)
    assert "are for a registry in Consul" in CommandLine(home).refused(2, *init[:5], "--consul-prefix", "a/")


class Death:
    """Ends this process at its `at`-th step: an answer of Consul, or a change of the home's files."""

    def __init__(self, at: int) -> None:
        self.left = at

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os._exit(9)

    def around(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            self.step()
            result = work(*args, **options)
            self.step()
            return result

        return wrapped

    def after(self, work: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def wrapped(*args: Any, **options: Any) -> Any:
            result = await work(*args, **options)
            self.step()
            return result

        return wrapped


def killed_at(step: int, work: Callable[[], Awaitable[object]]) -> bool:
    """Does `work` in a process of its own that dies at this step; whether it came to that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads; the child uses none of them
        pid = os.fork()
    if pid == 0:
        try:
            death = Death(step)
            for owner, name in ((consul_http._Server, "_exchange"), (EmbeddedRegistry, "close_to_changes")):
                setattr(owner, name, death.after(getattr(owner, name)))
            for name in ("store_config", "make_aside", "move", "_rename"):
                setattr(registry_moves, name, death.around(getattr(registry_moves, name)))
            trio.run(work)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9), code
    return code == 9


def uses_consul(op: CommandLine) -> bool:
    return "consul" in json.loads((op.home / "domain.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["consul", "embedded"])
def test_f03_a_copy_that_is_killed_at_any_moment_is_run_again(
    op: CommandLine, place: ConsulPlace, consul: ConsulServer, target: str
) -> None:
    before = content(op)
    moved = []
    for step in range(1, 1000):
        if (target == "embedded") != uses_consul(op):
            into(op, place) if target == "embedded" else out_of(op)
        was_killed = killed_at(
            step, lambda: move_to_consul(op.home, place) if target == "consul" else move_home(op.home)
        )
        moved.append(uses_consul(op) == (target == "consul"))
        if not moved[-1]:
            into(op, place) if target == "consul" else out_of(op)
        assert content(op, place if target == "consul" else None) == before
        if not was_killed:
            break
    print(f"killed at each of {len(moved) - 1} steps; {moved.count(False)} times it had to be run again")
    assert 10 < moved.count(False) < len(moved) < 100
    op.ok("host", "add", "after")
