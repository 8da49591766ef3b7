"""I/O: what SIGHUP leads to: a node reads its files again and has new workers, or leaves its place to another version.

A node on trial (see `trial`) leaves its place as well: to the process that waits, once it has served for a while.
"""

from __future__ import annotations

from typing import Protocol

import trio

from agents import clock, handover, program
from agents.data_workers import DataWorkers
from agents.handover import Inherited
from agents.lifecycle import Lifecycle, say_reloaded, say_reloading
from bridge import limits
from bridge.errors import clock as clock_words
from bridge.logs import get_logger
from inventory.errors import MeshError, Unavailable

log = get_logger()


class ReloadingNode(Protocol):
    """The node, as far as it is needed here."""

    async def reload(self) -> None:
        """Read again what may have changed. Raises MeshError."""

    def workers_renewed(self) -> None:
        """New workers have taken over from those before."""

    async def before_replacement(self) -> None:
        """Tell others that this node is away for a moment."""

    def why_unlinked(self) -> str:
        """Why others do not find the way to this node; empty when they do."""

    def leave(self) -> None:
        """What serves goes on when the node's tasks end."""

    def end_for_replacement(self) -> None:
        """End the node's tasks."""


class Reloading:
    """A node's reloads, and what became of them.

    Args:
        version: that of this process.
    """

    def __init__(
        self, node: ReloadingNode, version: str, lifecycle: Lifecycle, workers: DataWorkers, inherited: Inherited
    ) -> None:
        self._node = node
        self._version = version
        self._lifecycle = lifecycle
        self._workers = workers
        self._inherited = inherited
        self.last = ""
        """What became of the last one, in words."""
        self.leaves = False
        """Another version is about to take this one's place: what cannot be answered any more is left to it."""
        self.was_linked = False
        """Whether others found the way to this node when it left."""
        self.replaced_by = ""
        """The version that is to take this process's place, once the node has ended."""

    async def run(self) -> None:
        """Follow every wish to reload, until cancelled."""
        if self._inherited.refused:
            self._say(f"done, but {self._inherited.refused}; {self._version} goes on")
            log.error("the version before goes on", reason=self._inherited.refused)
            say_reloaded(f"last reload at {self.last}")
        if self._inherited.reload:
            self._lifecycle.reload()
        async for _ in self._lifecycle.reloads():
            say_reloading()
            try:
                await self._node.reload()
                log.info("reloaded")
            except MeshError as exc:
                self._say(f"refused: {exc.with_hint}")
                log.error("reload refused; everything stays as it was", reason=str(exc), hint=exc.hint)
            else:
                await self.renew_workers()
            if not (self.replaced_by or self._lifecycle.draining.is_set()):  # else the next one says it, or nobody
                say_reloaded(f"last reload at {self.last}")

    def _say(self, what: str) -> None:
        """With its time: what it says may not be so any more when somebody reads it."""
        self.last = f"{clock_words(clock.now())}: {what}"

    async def renew_workers(self) -> None:
        """New workers, from the code on disk, take the place of those that are there."""
        try:
            installed = await trio.to_thread.run_sync(program.installed_version)
            if installed != self._version:
                await self._leave_to(installed)
                return
            await self._workers.renew()
        except MeshError as exc:
            self._say(f"done, but the workers stay: {exc.with_hint}")
            log.warning("the workers stay as they are", reason=str(exc), hint=exc.hint)
            return
        self._say("done, with new workers")
        log.info("new workers serve", pids=[worker.pid for worker in self._workers if worker.serves])
        self._node.workers_renewed()

    async def _leave_to(self, installed: str) -> None:
        """Raises Unavailable: it cannot be started."""
        if not installed:
            raise Unavailable("meshbridge is not installed any more", hint="install it, then reload again")
        await program.probe()
        log.info("the version on disk takes over", before=self._version, after=installed)
        await self._leave(installed)

    async def pass_trial(self) -> None:
        """Serve for a while, then leave the place to the process that waits.

        Raises:
            Unavailable: others found the way to the version before, and do not find it to this one.
        """
        await self._workers.taken_over()
        await trio.sleep(limits.TRIAL_SPAN)
        if self._inherited.is_linked and (why := self._node.why_unlinked()):
            raise Unavailable(why)
        await self._leave(self._version)

    async def _leave(self, to: str) -> None:
        """End this process's part, and nothing else."""
        if self.leaves:
            return
        self.leaves = True
        self.was_linked = not self._node.why_unlinked()
        with trio.move_on_after(limits.RETURN_NOTICE):
            await self._node.before_replacement()
            await self._workers.all_said()
        if self._lifecycle.draining.is_set():
            self.leaves = False
            return  # it is to end, and nobody is to take its place
        handover.hold_signals()
        self.replaced_by = to
        self._node.leave()
        self._node.end_for_replacement()
