"""I/O: (files) one node after another in a process: what the one before knew is gone when the next one serves."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents import node_process, trial
from agents.handover import Inherited, Left
from agents.trial import Ended, Refused
from inventory.home import HomeLock


class Knows:
    """A node, as far as it is needed here: it is in a circle, as everything that has tasks is."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


async def test_a_node_that_goes_on_after_a_trial_does_not_keep_what_it_knew_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thawed: None
) -> None:
    """A gateway freezes what it knows at its start: with 10,000 hosts each trial that failed cost all of that again."""
    known: list[weakref.ref[Knows]] = []
    said: list[str] = []

    async def serve(inherited: Inherited, lock: HomeLock) -> tuple[int, Left | None]:
        gc.collect()
        assert [one for one in known if one() is not None] == []
        said.append(inherited.refused)
        node = Knows()
        known.append(weakref.ref(node))
        gc.freeze()
        return 0, Left(lock=lock.fd, listening=(), workers=())

    async def try_out(left: Left) -> Refused | Ended:
        return Refused("it ended", left) if len(known) < 3 else Ended(7)

    monkeypatch.setattr(trial, "try_out", try_out)
    assert await node_process.run(tmp_path, serve) == 7
    assert said == ["", *["the version on disk did not pass its trial: it ended"] * 2]
