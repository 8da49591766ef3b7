"""I/O: (trio tasks) what SIGHUP leads to: new workers, another version's turn, or a sentence that says why neither."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
import trio.testing

from agents.data_workers import DataWorkers
from agents.handover import Inherited, Left
from agents.lifecycle import Lifecycle
from agents.reloading import Reloading
from bridge import limits
from inventory.errors import InputError, MeshError, Unavailable

NOW = 1_800_000_000.0
MENDED = "mend it, reload again"


class FakeNode:
    """A node and its workers, as far as a reload needs them; what was done to them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refuses: MeshError | None = None
        self.unlinked = ""
        self.leaving: Callable[[], None] = lambda: None
        self.lifecycle = Lifecycle()
        self.inherited = Inherited()
        self.pids: list[Any] = []

    def __iter__(self) -> Any:
        return iter(self.pids)

    @property
    def reloading(self) -> Reloading:
        return Reloading(self, "1.0.0", self.lifecycle, cast(DataWorkers, self), self.inherited)

    async def reload(self) -> None:
        self.done.append("reload")
        if self.refuses is not None:
            raise self.refuses

    def workers_renewed(self) -> None:
        self.done.append("renewed")

    async def before_replacement(self) -> None:
        self.leaving()
        self.done.append("said")

    def why_unlinked(self) -> str:
        return self.unlinked

    def end_for_replacement(self) -> None:
        self.done.append("end")

    # --- its workers

    async def renew(self) -> None:
        self.done.append("renew")

    async def all_said(self) -> None:
        pass

    async def taken_over(self) -> None:
        self.done.append("taken over")

    def leave(self) -> None:
        self.done.append("leave")


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    node = FakeNode()
    monkeypatch.setattr("agents.reloading.clock.now", lambda: NOW)
    monkeypatch.setattr("agents.reloading.handover.hold_signals", lambda: node.done.append("hold"))
    monkeypatch.setattr("agents.reloading.program.probe", trio.lowlevel.checkpoint)
    installed(monkeypatch, "1.0.0")
    return node


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr("agents.reloading.program.installed_version", lambda: version)


async def test_the_same_version_has_new_workers(node: FakeNode) -> None:
    node.pids = [types.SimpleNamespace(pid=7, serves=True)]
    reloading = node.reloading
    await reloading.renew_workers()
    assert node.done == ["renew", "renewed"] and reloading.last == "2027-01-15 08:00:00Z: done, with new workers"


async def test_a_version_that_is_not_there_or_cannot_start_changes_nothing(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise Unavailable("the version on disk cannot be started: SyntaxError", hint=MENDED)

    monkeypatch.setattr("agents.reloading.program.probe", broken)
    reloading = node.reloading
    for version, why in (("", "is not installed"), ("9.9.9", "SyntaxError")):
        installed(monkeypatch, version)
        await reloading.renew_workers()
        assert "08:00:00Z: done, but the workers stay" in reloading.last and why in reloading.last
        assert reloading.last.endswith("reload again")
        assert not reloading.replaced_by and not reloading.leaves and node.done == []


async def test_another_version_is_left_the_place_unless_the_node_is_to_end(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, "9.9.9")
    node.leaving = node.lifecycle.drain
    reloading = node.reloading
    await reloading.renew_workers()
    assert node.done == ["said"] and not reloading.leaves and not reloading.replaced_by
    node.lifecycle, node.leaving = Lifecycle(), lambda: node.done.append(f"leaves {reloading.leaves}")
    reloading = node.reloading
    await reloading.renew_workers()
    assert node.done[1:] == ["leaves True", "said", "hold", "leave", "end"], "what it cannot answer it leaves"
    assert reloading.replaced_by == "9.9.9" and reloading.was_linked


async def test_a_refused_reload_leaves_the_workers_alone(node: FakeNode) -> None:
    node.refuses = InputError("services.toml: not TOML", hint=MENDED)
    reloading = node.reloading
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reloading.run)
        node.lifecycle.reload()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert node.done == ["reload"] and reloading.last.endswith(f"refused: services.toml: not TOML; {MENDED}")


async def test_what_became_of_a_trial_is_said_and_a_wish_that_nobody_followed_is_followed(node: FakeNode) -> None:
    node.inherited = Inherited(Left(lock=0, listening=(), workers=(), reload=True), refused="9.9.9 ended")
    reloading = node.reloading
    said: list[str] = []
    renewed = trio.Event()

    async def reload() -> None:
        said.append(reloading.last)

    node.reload, node.workers_renewed = reload, renewed.set  # type: ignore[method-assign]
    with trio.fail_after(1):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reloading.run)
            await renewed.wait()
            nursery.cancel_scope.cancel()
    assert said == ["2027-01-15 08:00:00Z: done, but 9.9.9 ended; 1.0.0 goes on"]


async def test_one_on_trial_serves_for_a_while_and_is_found_by_whoever_found_the_one_before(
    node: FakeNode, autojump_clock: trio.testing.MockClock
) -> None:
    node.inherited = Inherited(Left(lock=0, listening=(), workers=(), linked=True))
    node.unlinked = "gateway gw1 is not reached: no way"
    with pytest.raises(Unavailable, match="no way"):
        await node.reloading.pass_trial()
    assert node.done == ["taken over"] and trio.current_time() >= limits.TRIAL_SPAN
    node.unlinked = ""
    reloading = node.reloading
    await reloading.pass_trial()
    assert reloading.replaced_by == "1.0.0" and node.done[-2:] == ["leave", "end"]
    node.unlinked = "gateway gw1 is not reached: no way"
    node.inherited = Inherited(Left(lock=0, listening=(), workers=()))
    reloading = node.reloading
    await reloading.pass_trial()
    assert reloading.replaced_by == "1.0.0" and not reloading.was_linked, "nor was the one before found"
