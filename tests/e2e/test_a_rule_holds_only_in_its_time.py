"""I/O: `when` and `until`, live, with windows around now: what holds now lets through, what does not refuses in words.

The moment at which a window closes is in test_a_window_that_closes_cuts_live_streams.py.
"""

from __future__ import annotations

import datetime

from tests.support.town import Town, allow, deny
from tests.support.traffic import Backend, ask, eventually, is_refused

NOW = datetime.datetime.now(datetime.UTC)


def clock(hours: float) -> str:
    return (NOW + datetime.timedelta(hours=hours)).strftime("%H:%M")


def day(days: int) -> str:
    return (NOW + datetime.timedelta(days=days)).date().isoformat()


HOLDS = {
    "around-now": f'when = "{clock(-2)}-{clock(2)}"',
    "with-a-zone": f'when = "daily {clock(-2)}-{clock(2)} UTC"',
    "ends-tomorrow": f"until = {day(1)}",
    "both": f'when = "{clock(-2)}-{clock(2)}"\nuntil = {day(1)}',
}
HOLDS_NOT = {
    "later": (f'when = "{clock(4)}-{clock(6)}"', "it holds only"),
    "earlier": (f'when = "{clock(-6)}-{clock(-4)}"', "it holds only"),
    "other-day": (f'when = "{(NOW + datetime.timedelta(days=3)):%a} {clock(-2)}-{clock(2)}"', "it holds only"),
    "ended": (f"until = {day(-1)}", f"it ended with {day(-1)}"),
    "window-but-ended": (f'when = "{clock(-2)}-{clock(2)}"\nuntil = {day(-1)}', f"it ended with {day(-1)}"),
}


def test_a_rule_outside_its_time_allows_nothing(town: Town) -> None:
    text = "".join(allow(name, '"host:app"', f'"{name}"', line) for name, line in HOLDS.items())
    text += "".join(allow(name, '"host:app"', f'"{name}"', line) for name, (line, _) in HOLDS_NOT.items())
    with Backend("db1") as backend:
        for service in (*HOLDS, *HOLDS_NOT):
            town.place(service, "db1", backend.target)
        town.policy(text)
        for service in HOLDS:
            address = town.address("app", service)
            assert eventually(lambda address=address: ask(*address)) == "db1", service
            assert town.allowed("host:app", service)
        for service, (_, why) in HOLDS_NOT.items():
            assert is_refused(*town.address("app", service)), service
            assert not town.allowed("host:app", service)
            assert why in town.flow("app", service, "refused")["reason"]


def test_a_deny_outside_its_time_denies_nothing(town: Town) -> None:
    service = town.name("ledger")
    everyone = allow("all", '"host:app"', f'"{service}"')
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(everyone + deny("at night", '"host:app"', f'"{service}"', f'when = "{clock(4)}-{clock(6)}"'))
        address = town.address("app", service)
        assert eventually(lambda: ask(*address)) == "db1"
        town.policy(everyone + deny("by day", '"host:app"', f'"{service}"', f'when = "{clock(-2)}-{clock(2)}"'))
        assert eventually(lambda: is_refused(*address))


def test_explain_answers_for_any_moment(town: Town) -> None:
    service = town.name("nightly")
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("nights", '"host:app"', f'"{service}"', 'when = "Mon-Fri 22:00-04:00 Europe/Berlin"'))
        # In November Berlin is an hour ahead of UTC.
        assert town.allowed("host:app", service, "--at", "2026-11-23T21:00")
        assert not town.allowed("host:app", service, "--at", "2026-11-23T20:59")
        assert town.allowed("host:app", service, "--at", "2026-11-28T02:59")
        assert not town.allowed("host:app", service, "--at", "2026-11-28T03:00")
