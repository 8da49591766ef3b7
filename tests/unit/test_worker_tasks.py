"""I/O: what is remembered of one live stream; tasks with a guard each."""

from __future__ import annotations

import pytest
import trio

from agents.workers.channel import ChannelClosed
from agents.workers.live import LiveFlow, new_flow_id
from agents.workers.tasks import Tasks
from bridge.policy.decide import Permit, Subject


async def test_a_bug_in_a_task_ends_that_task() -> None:
    crashes: list[BaseException] = []
    done: list[str] = []

    async def broken() -> None:
        raise KeyError("x")

    async def works(word: str) -> None:
        await trio.lowlevel.checkpoint()
        done.append(word)

    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery, crashes.append)
        tasks.start_soon(broken)
        tasks.start_soon(works, "yes")
    assert done == ["yes"] and [type(crash) for crash in crashes] == [KeyError]


async def test_the_end_of_the_supervisor_ends_the_worker() -> None:
    async def orphaned() -> None:
        raise ChannelClosed("the supervisor is gone")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            Tasks(nursery, lambda _: None).start_soon(orphaned)
            await trio.sleep_forever()
    assert caught.group_contains(ChannelClosed)


def flow(**changes: object) -> LiveFlow:
    values: dict[str, object] = {
        "side": "source",
        "subject": Subject("host", "vm1"),
        "service": "web",
        "site": None,
        "host": "vm1",
        "started": 1000.5,
        "began": 10.0,
    }
    return LiveFlow(**{**values, **changes})  # type: ignore[arg-type]


def test_the_record_of_a_stream() -> None:
    live = flow(user="ann")
    live.permit = Permit(rule="r", subject=live.subject, service="web", expires_at=None, needs_user=False)
    live.instance, live.via, live.accepted = "web/vm2/127.0.0.1:80", "gw1", 10.25
    record = live.record(now=12.0, result="cut", reason="why", bytes_in=3, bytes_out=4)
    assert (record.ts, record.subject, record.user, record.rule, record.via) == (1000.5, "host:vm1", "ann", "r", "gw1")
    assert (record.duration_ms, record.connect_ms) == (2000.0, 250.0)
    assert (record.bytes_in, record.bytes_out, record.result, record.reason) == (3, 4, "cut", "why")
    assert record.id == record.trace_id == live.id


def test_the_record_of_a_stream_that_was_never_accepted() -> None:
    record = flow().record(now=9.0, result="refused", reason="no", rule="deny it")
    assert (record.duration_ms, record.connect_ms, record.rule, record.via) == (0.0, 0.0, "deny it", "direct")


def test_flow_ids_differ() -> None:
    assert len({new_flow_id() for _ in range(1000)}) == 1000
    assert flow(flow_id="theirs").id == "theirs"
