"""I/O: with the gateway stopped, hosts that can dial each other go on, and start again from their own disks (F14).

vm2 ───── direct ────▶ vm1         gateway: stopped, its port closed
"""

from __future__ import annotations

import json
import time

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import CLIENT, SERVER, Pair, start_pair, status
from tests.support.traffic import Backend, ask, eventually, hold, is_alive, is_refused, session

READY_WITHIN = 5.0
"""Seconds from the start of an agent to its ready line (F14)."""
POLICY = """
[[allow]]
name = "vm2 uses them"
from = ["host:vm2"]
to = ["web", "held"]

[[allow]]
name = "this one is for somebody else"
from = ["host:vm2"]
to = ["closed"]
user = ["nobody-of-this-test"]
"""


def resolved(pair: Pair, service: str) -> str:
    code, out, words = pair.town.command(CLIENT, "resolve", service)
    assert code == 0, words
    return out.strip()


def saved(estate: Estate) -> bool:
    """Whether both hosts have on disk what is in force: it is written a moment after it came."""
    number = status(estate, OPERATOR)["policy_number"]
    files = [estate.home(host) / "allows.json" for host in (SERVER, CLIENT)]
    return all(file.exists() and str(number) in json.loads(file.read_text())["policies"] for file in files)


@pytest.mark.slow
def test_f14_direct_hosts_go_on_and_start_from_disk(estate: Estate) -> None:
    with Backend("one") as one, Backend("held", hold) as held:
        services = {"web": one.target, "held": held.target, "closed": one.target}
        pair = start_pair(estate, services, direct=True)
        pair.town.policy(POLICY)
        web, sessions = pair.place("web"), pair.place("held")
        eventually(lambda: is_refused(*pair.place("closed")), what="the new policy in force")
        eventually(lambda: saved(estate), what="both hosts have saved the policy")
        with session(*sessions) as sock:
            assert estate.terminate(OPERATOR) == 0
            assert is_alive(sock), "a stream that was open goes on"
            with session(*sessions) as new:
                assert is_alive(new), "and new ones open"
            assert ask(*web) == "one"
        for host in (SERVER, CLIENT):
            estate.terminate(host) if host == SERVER else estate.kill9(host)
        for host in (SERVER, CLIENT):
            began = time.monotonic()
            estate.start_agent(host)
            took = time.monotonic() - began
            print(f"{host} ready {took:.2f} s after its start, without any gateway")
            assert took < READY_WITHIN
        assert resolved(pair, "web") == web[0], "names are where they were"
        assert pair.place("web") == web
        assert ask(*web) == "one", "allowed, as before"
        assert pair.tunnel_paths() == ["direct"]
        assert is_refused(*pair.place("closed")), "denied, as before"
        with session(*sessions) as sock:
            assert is_alive(sock)
        warnings = {warning["code"] for host in (SERVER, CLIENT) for warning in status(estate, host)["warnings"]}
        assert warnings == {"no-gateway", "outage-budget"}, "and status says so, and that nothing renews certificates"

        estate.start_gateway()
        eventually(lambda: not status(estate, CLIENT)["warnings"], what="the gateway is found again", timeout=30)
