"""I/O: SIGHUP with another version on disk: every node becomes it in place, under load, and nobody notices.

From a copy of the source whose version is changed between two reloads; one that cannot be imported changes nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import estate as estates
from tests.support.estate import OPERATOR, Estate
from tests.support.installed import Installed
from tests.support.pair import CLIENT, SERVER, start_pair, status, wait_connected, wait_version, worker_pids
from tests.support.traffic import Backend, Load, ask, eventually, hold, is_alive, session, work

NODES = (CLIENT, SERVER, OPERATOR)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    made = Installed(tmp_path / "source")
    monkeypatch.setattr(estates, "ROOT", made.place)
    yield made


def become(estate: Estate, home: str, version: str) -> None:
    pid = estate.nodes[home].pid
    estate.nodes[home].signal(signal.SIGHUP)
    wait_version(estate, home, version)
    assert status(estate, home)["pid"] == pid, "the same process, for its service manager"


def ending(estate: Estate, home: str) -> list[int]:
    return [worker["pid"] for worker in status(estate, home)["workers"] if worker["state"] == "ending"]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["direct", "through gw1"])
def test_f10_every_node_becomes_a_new_version_without_a_failed_request(
    estate: Estate, installed: Installed, way: str
) -> None:
    with Backend("quick") as quick, Backend("slow", work) as slow, Backend("held", hold) as held:
        services = {"quick": quick.target, "slow": slow.target, "held": held.target}
        pair = start_pair(estate, services, direct=way == "direct", workers=2)
        with session(*pair.place("held")) as kept:
            short, long = Load(*pair.place("quick"), rate=100), Load(*pair.place("slow"), clients=48, rate=100)
            with short, long:
                short.wait_for(100)
                for number, home in enumerate(NODES, start=2):
                    installed.version(f"{number}.0.0")
                    become(estate, home, f"{number}.0.0")
                    short.wait_for(100)
                    long.wait_for(50)
                    failed, total = len(short.failures) + len(long.failures), short.total + long.total
                    print(f"{way}, {home}: {failed} of {total} failed")
            assert not short.failures and not long.failures, (short.failures + long.failures)[:3]
            assert is_alive(kept)
        wait_connected(estate, SERVER, CLIENT)
        for home in NODES:
            eventually(lambda: not ending(estate, home), what=f"old workers of {home} ended", timeout=40)  # noqa: B023
            assert not [w for w in status(estate, home)["warnings"] if w["code"] != "loop-lag"], (
                "the machine may be slow"
            )
        assert ask(*pair.place("quick")) == "quick"


@pytest.mark.slow
def test_who_needs_a_new_way_through_a_gateway_that_is_just_back_gets_one(estate: Estate, installed: Installed) -> None:
    """The workers that are to carry it have not started then."""
    with Backend("quick") as quick:
        pair = start_pair(estate, {"quick": quick.target}, workers=2)
        installed.version("2.0.0")
        estate.nodes[OPERATOR].signal(signal.SIGHUP)
        for on_trial in (True, False):
            is_back = {"version": "2.0.0", "on_trial": on_trial}
            eventually(lambda: is_back.items() <= status(estate, OPERATOR).items(), what="it is back", timeout=80)  # noqa: B023
            for _ in range(20):
                assert ask(*pair.place("quick")) == "quick"


@pytest.mark.slow
def test_a_version_that_cannot_start_changes_nothing(estate: Estate, installed: Installed) -> None:
    with Backend("quick") as quick:
        pair = start_pair(estate, {"quick": quick.target}, direct=True, workers=2)
        before = worker_pids(estate, SERVER)
        module = installed.place / "agents" / "host_agent.py"
        sound = module.read_text()
        module.write_text(sound + "\nimport nothing_of_that_name\n")
        installed.version("2.0.0")
        with Load(*pair.place("quick"), rate=100) as load:
            estate.nodes[SERVER].signal(signal.SIGHUP)
            told = eventually(lambda: status(estate, SERVER)["last_reload"], what="what became of it", timeout=80)
            load.wait_for(100)
        assert "cannot be started" in told and "nothing_of_that_name" in told
        assert status(estate, SERVER)["version"] == "1.0.0" and not load.failures
        assert worker_pids(estate, SERVER) == before
        module.write_text(sound)
        pid = estate.nodes[SERVER].pid

        def impatient() -> bool:
            """At any moment of the change a signal may come: none of them ends the process."""
            estate.nodes[SERVER].signal(signal.SIGHUP)
            found = status(estate, SERVER)
            return found.get("version") == "2.0.0" and not found["on_trial"]

        eventually(impatient, what=f"{SERVER} is 2.0.0", timeout=80)
        assert status(estate, SERVER)["pid"] == pid
        assert ask(*pair.place("quick")) == "quick"
