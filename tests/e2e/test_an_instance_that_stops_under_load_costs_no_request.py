"""I/O: of two instances one stops, then the other, while clients open a connection per request: none fails."""

from __future__ import annotations

import pytest

from tests.support.town import Town, allow
from tests.support.traffic import Backend, Load, ask, eventually

CHECK = "tcp;interval=200ms"


@pytest.mark.parametrize("places", [("db1", "db1"), ("db1", "db2"), ("db2", "db2")])
def test_no_request_fails(town: Town, places: tuple[str, str]) -> None:
    service = town.name("shop")
    with Backend("one") as one, Backend("two") as two:
        town.place(service, places[0], one.target, "--check", CHECK)
        town.place(service, places[1], two.target, "--check", CHECK)
        town.policy(allow("shop", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        eventually(lambda: ask(*address))
        with Load(address[0], address[1], rate=200) as load:
            for backend in (one, two):
                load.wait_for(50)
                backend.stop()
                load.wait_for(100)
                assert load.answers[backend.name] or places[0] != places[1], "the own site comes first"
                backend.start()
        assert not load.failures, f"{len(load.failures)} of {load.total} failed: {load.failures[:3]}"


def test_a_request_to_one_that_crashes_fails_at_most_once_each(town: Town) -> None:
    """What was on its way to it is lost, and is not sent twice: only the connections it had break."""
    service = town.name("shop")
    with Backend("one") as one, Backend("two") as two:
        town.place(service, "db1", one.target, "--check", CHECK)
        town.place(service, "db2", two.target, "--check", CHECK)
        town.policy(allow("shop", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        eventually(lambda: ask(*address))
        with Load(address[0], address[1], rate=200) as load:
            load.wait_for(50)
            two.kill()
            load.wait_for(200)
        assert len(load.failures) <= 4, load.failures[:5]
