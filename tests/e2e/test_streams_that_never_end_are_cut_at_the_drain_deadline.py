"""I/O: SIGTERM waits for live streams no longer than the deadline: then they are cut, with the reason on record."""

from __future__ import annotations

import sys
import time

import pytest

from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, start_pair
from tests.support.traffic import Backend, hold, is_alive, is_refused, session, wait_cut

DEADLINE = 3.0
SHORTENED = f"from bridge import limits; limits.DRAIN_DEADLINE = {DEADLINE}; from cli.main import main; main()"
"""The agent as always, but for one limit: nobody wants to wait for 30 seconds here."""


@pytest.mark.slow
def test_f09_a_drain_that_overruns_cuts_with_the_reason(estate: Estate) -> None:
    with Backend("terminal", hold) as backend:
        pair = start_pair(estate, {"terminal": backend.target}, direct=True)
        estate.terminate(SERVER)
        home = str(estate.home(SERVER))
        agent = estate.nodes[SERVER] = estate.start(
            SERVER, [sys.executable, "-c", SHORTENED, "--home", home, "agent", "run"]
        )
        estate.wait_ready(SERVER)
        address = pair.place("terminal")
        with session(*address) as held, session(*address) as other:
            began = time.monotonic()
            agent.signal(15)
            agent.stderr.wait_for("draining", 5)
            assert is_alive(held), "what lives goes on"
            assert agent.wait(DEADLINE + 5) == 1, "the exit code says that streams were cut"
            took = time.monotonic() - began
            assert DEADLINE - 0.5 < took < DEADLINE + 1.5, f"{took:.1f} s"
            for sock in (held, other):
                wait_cut(sock, 1.0)
        assert is_refused(*address)
    cut = [flow for flow in pair.town.flows(SERVER, "terminal") if flow["result"] == "cut"]
    assert [flow["reason"] for flow in cut] == ["the drain deadline has passed"] * 2
    assert pair.town.flow(CLIENT, "terminal", "cut")["reason"]


def test_a_second_sigterm_stops_at_once(estate: Estate) -> None:
    with Backend("terminal", hold) as backend:
        pair = start_pair(estate, {"terminal": backend.target})
        agent = estate.nodes[SERVER]
        with session(*pair.place("terminal")) as held:
            agent.signal(15)
            agent.stderr.wait_for("draining", 5)
            began = time.monotonic()
            agent.signal(15)
            assert agent.wait(10) == 1
            assert time.monotonic() - began < 3
            wait_cut(held, 2.0)
