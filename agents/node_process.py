"""I/O: a node's process: one node after another in it, until one ends for good.

A node that leaves its place to the version on disk is followed by that version, once it has passed its trial in a
process of its own (`trial`); or else by itself again, with what it left.
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from agents import handover, trial
from agents.handover import Inherited, Left
from agents.lifecycle import say_status
from bridge.logs import get_logger
from inventory.errors import MeshError
from inventory.home import HomeLock, lock_home

log = get_logger()

Serve = Callable[[Inherited, HomeLock], Awaitable[tuple[int, Left | None]]]
"""Runs a node to its end: the exit code, and what it left if another one is to follow."""


async def run(home: Path, serve: Serve) -> int:
    """Run the node of this home until it is told to end; the exit code.

    Raises:
        MeshError: the home is taken, or what `serve` raises.
    """
    inherited = handover.take()
    with HomeLock(inherited.lock) if inherited.lock is not None else lock_home(home) as lock:
        while True:
            try:
                code, left = await serve(inherited, lock)
            except BaseException as exc:
                if inherited.trial is not None:
                    inherited.trial.fails(_words(exc))
                raise
            if left is None:
                return code
            if inherited.trial is not None:
                inherited.trial.hand_back(left)
                return 0
            say_status("the version on disk is tried")
            match await trial.try_out(left):
                case trial.Ended(code=code):
                    return code
                case trial.Passed(left=left):
                    inherited = _become(left)
                case trial.Refused(why=why, left=left):
                    inherited = Inherited(left, refused=f"the version on disk did not pass its trial: {why}")
            gc.unfreeze()  # what the node before knew, if it froze that (see `gateway_agent`), is not needed any more


def _become(left: Left) -> Inherited:
    """Returns only when that cannot be done."""
    try:
        handover.replace(left)
    except OSError as exc:
        return Inherited(left, refused=f"the version on disk cannot be started: {exc.strerror}")
    raise AssertionError("execve returned")


def _words(exc: BaseException) -> str:
    """Of the first error in a group; of a bug what it is and where, and not its text, which may hold anything."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if isinstance(exc, MeshError):
        return exc.with_hint
    frames = traceback.extract_tb(exc.__traceback__)
    return type(exc).__name__ + (f" in {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "")
