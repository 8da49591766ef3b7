"""I/O: `mode = "observe"`: everything goes as it would without the rule, and the record names it."""

from __future__ import annotations

from tests.support.town import Town, allow, deny
from tests.support.traffic import Backend, ask, eventually, is_refused

OBSERVE = 'mode = "observe"'


def test_an_observed_deny_lets_through(town: Town) -> None:
    service = town.name("ledger")
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(
            allow("in force", '"host:app"', f'"{service}"')
            + deny("planned", '"label:role=web"', f'"{service}"', OBSERVE)
        )
        address = town.address("app", service)
        assert eventually(lambda: ask(*address)) == "db1"
        for node in ("app", "db1"):
            record = town.flow(node, service, "ok")
            assert (record["rule"], record["observed"]) == ("in force", "planned")


def test_an_observed_allow_makes_nothing_reachable(town: Town) -> None:
    service, other = town.name("ledger"), town.name("other")
    with Backend("db1") as backend:
        for name in (service, other):
            town.place(name, "db1", backend.target)
        town.policy(
            allow("planned", '"host:app"', f'"{service}", "{other}"', OBSERVE)
            + allow("some users", '"host:app"', f'"{service}"', 'user = ["someone-else"]')
        )
        address = town.address("app", service)
        assert is_refused(*address)
        assert town.flow("app", service, "refused")["observed"] == "planned"
        assert not town.knows("app", other)
        assert not town.allowed("host:app", service)
