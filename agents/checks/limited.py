"""I/O: (waits for a slot) checks of instances with a limit. A check is a connection like any other: one too many would
make fall over what it asks after.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from agents.checks.answers import Outcome
from inventory.model import Health, Instance

Slot = Callable[[Instance], AbstractAsyncContextManager[bool]]
"""An instance with a limit may be asked while this holds, if it says that there is room (see `agents.governors`)."""


def with_limit(instances: Iterable[Instance]) -> dict[tuple[str, str], list[Instance]]:
    """Those that have one, by host and target."""
    found: dict[tuple[str, str], list[Instance]] = {}
    for instance in instances:
        if instance.max_streams is not None or instance.max_rate is not None:
            found.setdefault((instance.host, instance.target), []).append(instance)
    return found


@asynccontextmanager
async def always(_instance: Instance) -> AsyncIterator[bool]:
    """A Slot of a node that counts nothing."""
    yield True


async def within_limits(
    limited: Iterable[Instance],
    slot: Slot,
    known: Callable[[Instance], Health],
    probe: Callable[[], Awaitable[Outcome]],
) -> Outcome:
    """What a probe finds that speaks for these instances, among others. Where one of them has as many streams as it
    takes, these show that it is as it was known to be."""
    async with AsyncExitStack() as stack:
        for instance in limited:
            if not await stack.enter_async_context(slot(instance)):
                health = known(instance)
                return Outcome(health.state != "failing", health.reason)
        return await probe()
