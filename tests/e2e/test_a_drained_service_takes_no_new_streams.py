"""I/O: `service drain`: live streams go on, new ones go to the other instances, and `service resume` ends it."""

from __future__ import annotations

import socket

from tests.support.town import Town, allow
from tests.support.traffic import Backend, eventually, hold, is_alive, is_refused, session


def test_live_streams_go_on_and_new_ones_go_elsewhere(town: Town) -> None:
    service = town.name("terminal")
    with Backend("one", hold) as one, Backend("two", hold) as two:
        town.place(service, "db1", one.target)
        town.place(service, "db2", two.target)
        town.policy(allow("terminal", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        assert eventually(lambda: _who(address)) == "two", "the caller's own site comes first"
        with session(*address) as held:
            town.ok("op", "service", "drain", service, "--host", "db2", "--reason", "new version")
            eventually(lambda: _who(address) == "one", what="new streams go to the other one")
            assert {_who(address) for _ in range(10)} == {"one"}
            assert is_alive(held)
            town.ok("op", "service", "drain", service, "--host", "db1", "--reason", "all of it")
            eventually(lambda: is_refused(*address), what="nobody left")
            assert is_alive(held)
            why = f"{service}/db1/{one.target} is draining: all of it"
            eventually(lambda: any(why in flow["reason"] for flow in town.flows("app", service)), what=why)
            code, _, words = town.command("app", "dial", service)
            assert (code, why in words) == (69, True), words
            town.ok("op", "service", "resume", service)
            eventually(lambda: _who(address) == "two", what="back in service")
            assert is_alive(held)


def _who(address: tuple[str, int]) -> str:
    """The greeting; empty when there is none."""
    try:
        with socket.create_connection(address, 10) as sock:
            return sock.recv(100).decode().strip()
    except ConnectionError:
        return ""
