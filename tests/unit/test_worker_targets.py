"""I/O: addresses behind targets: literals at once, names looked up beside the data path."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from agents.workers.targets import Address, Targets
from bridge import limits
from inventory.errors import Unavailable


class Resolver:
    """Answers as a test says; counts the questions."""

    def __init__(self) -> None:
        self.answers: dict[str, str | OSError] = {}
        self.asked: list[str] = []
        self.delay = 0.0

    async def __call__(self, host: str, port: int) -> Address:
        self.asked.append(host)
        await trio.sleep(self.delay)
        answer = self.answers.get(host, OSError(-2, "Name or service not known"))
        if isinstance(answer, OSError):
            raise answer
        return socket.AF_INET, (answer, port)


def no_lookup(host: str, port: int) -> None:
    raise AssertionError(f"{host} was looked up")


async def test_addresses_need_no_lookup() -> None:
    targets = Targets(no_lookup)  # type: ignore[arg-type]
    targets.know(["127.0.0.1:80", "[::1]:81"])
    assert targets.address("127.0.0.1:80") == (socket.AF_INET, ("127.0.0.1", 80))
    assert targets.address("[::1]:81") == (socket.AF_INET6, ("::1", 81))
    with pytest.raises(Unavailable):
        targets.address("127.0.0.1:82")


async def test_names_are_looked_up_again_and_again_and_the_last_answer_counts(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    resolver = Resolver()
    targets = Targets(resolver)
    targets.know(["db.corp:5432"])
    with pytest.raises(Unavailable, match="was not looked up yet"):
        targets.address("db.corp:5432")
    nursery.start_soon(targets.run)
    await trio.sleep(0.1)
    with pytest.raises(Unavailable, match="cannot be resolved: Name or service not known"):
        targets.address("db.corp:5432")
    resolver.answers["db.corp"] = "10.0.0.1"
    await trio.sleep(limits.TARGET_LOOKUP_INTERVAL)
    assert targets.address("db.corp:5432") == (socket.AF_INET, ("10.0.0.1", 5432))
    resolver.answers["db.corp"] = OSError(-3, "Temporary failure")
    await trio.sleep(limits.TARGET_LOOKUP_INTERVAL)
    assert targets.address("db.corp:5432")[1] == ("10.0.0.1", 5432), "a resolver that is away takes nothing away"
    nursery.cancel_scope.cancel()


async def test_a_new_name_is_looked_up_at_once(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    resolver = Resolver()
    resolver.answers = {"a.corp": "10.0.0.1", "b.corp": "10.0.0.2"}
    targets = Targets(resolver)
    nursery.start_soon(targets.run)
    await trio.sleep(1000)
    assert not resolver.asked, "without names it sleeps"
    targets.know(["a.corp:1"])
    await trio.sleep(0.1)
    assert targets.address("a.corp:1")[1] == ("10.0.0.1", 1)
    targets.know(["b.corp:1", "127.0.0.1:1"])
    await trio.sleep(0.1)
    assert targets.address("b.corp:1")[1] == ("10.0.0.2", 1)
    with pytest.raises(Unavailable):
        targets.address("a.corp:1")
    nursery.cancel_scope.cancel()


async def test_a_resolver_that_hangs_is_given_up(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    resolver = Resolver()
    resolver.delay = 1000
    targets = Targets(resolver)
    targets.know(["a.corp:1"])
    nursery.start_soon(targets.run)
    await trio.sleep(limits.TARGET_LOOKUP_TIMEOUT + 0.1)
    with pytest.raises(Unavailable, match="not resolved within 5 s"):
        targets.address("a.corp:1")
    nursery.cancel_scope.cancel()


async def test_a_target_that_is_none_says_so() -> None:
    targets = Targets(no_lookup)  # type: ignore[arg-type]
    targets.know(["nonsense"])
    with pytest.raises(Unavailable, match="not ADDR:PORT"):
        targets.address("nonsense")
