"""I/O: SIGHUP with a version on disk that imports and then fails in one way or another: the node goes on as it was.

It is the only instance of its service, and the only gateway: nobody else could take its requests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import estate as estates
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.installed import Installed
from tests.support.pair import CLIENT, SERVER, start_pair, status, wait_connected, wait_version
from tests.support.traffic import Backend, Load, ask, eventually, hold, is_alive, session, wait_cut

RUN = "        raise_descriptor_limit()\n"
READY = "            self.ready = True\n"
LPAR7 = "127.0.9.7"
CONNECT = "            self._connect(self.gateway, theirs)\n"


@dataclass(frozen=True)
class Fails:
    module: str
    before: str
    after: str
    says: str
    costs: int = 0
    """Requests that this version had taken on when it ended."""


KINDS = {
    "it ends at once": Fails(
        "agents/node.py", RUN, "        raise RuntimeError('broken')\n", "RuntimeError in node.py"
    ),
    "it dies at once": Fails("agents/node.py", RUN, "        os.kill(os.getpid(), 9)\n", "signal 9 ended it"),
    "it stands still": Fails("agents/node.py", READY, "            __import__('time').sleep(3600)\n", "stood still"),
    "it ends after a while": Fails(
        "agents/node.py", READY, f"{READY}            nursery.start_soon(self._breaks)\n", "ZeroDivisionError", costs=10
    ),
    "it finds no gateway": Fails(
        "agents/control/client.py", CONNECT, "            raise PeerError('no way from here')\n", "no way from here"
    ),
}
BREAKS = """
    async def _breaks(self) -> None:
        await trio.sleep(2)
        print(1 // 0)


def renewal_wait("""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    made = Installed(tmp_path / "source")
    monkeypatch.setattr(estates, "ROOT", made.place)
    yield made


def break_it(installed: Installed, fails: Fails) -> dict[Path, str]:
    """What was in the files before."""
    path = installed.place / fails.module
    sound = path.read_text()
    assert fails.before in sound
    broken = sound.replace(fails.before, fails.after, 1)
    path.write_text(broken.replace("\n\ndef renewal_wait(", BREAKS, 1) if "_breaks" in broken else broken)
    return {path: sound}


def refused(estate: Estate, home: str, before: str) -> str:
    """What is said of it once the node serves again."""

    def said() -> str:
        answer = status(estate, home)
        last = str(answer.get("last_reload", ""))
        return last if last != before and not answer.get("on_trial", True) else ""

    return eventually(said, what="what became of it", timeout=80)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), [("it dies at once", "direct"), *((kind, "through gw1") for kind in KINDS)])
def test_the_only_instance_goes_on(estate: Estate, installed: Installed, kind: str, way: str) -> None:
    fails = KINDS[kind]
    homes = (SERVER,) if kind == "it finds no gateway" else (SERVER, OPERATOR)
    with Backend("quick") as quick, Backend("held", hold) as held:
        services = {"quick": quick.target, "held": held.target}
        pair = start_pair(estate, services, direct=way == "direct", workers=2)
        sound = break_it(installed, fails)
        installed.version("2.0.0")
        with session(*pair.place("held")) as kept:
            with Load(*pair.place("quick"), rate=100) as load:
                for home in homes:
                    load.wait_for(100)
                    pid = estate.nodes[home].pid
                    estate.nodes[home].signal(signal.SIGHUP)
                    said = refused(estate, home, "")
                    load.wait_for(100)
                    assert "did not pass its trial" in said and fails.says in said and "1.0.0 goes on" in said
                    answer = status(estate, home)
                    assert answer["version"] == "1.0.0" and answer["pid"] == pid
                failed = [f"{why} {at:.2f}" for why, at in zip(load.failures, load.failed_from, strict=True)]
                print(f"{kind}, {way}: {len(failed)} of {load.total} failed, slowest {load.slowest:.2f} s")
            assert len(failed) <= fails.costs, failed
            assert is_alive(kept)
        wait_connected(estate, SERVER, CLIENT)
        for path, text in sound.items():
            path.write_text(text)
        installed.version("3.0.0")
        for home in homes:
            estate.nodes[home].signal(signal.SIGHUP)
            wait_version(estate, home, "3.0.0")
        wait_connected(estate, SERVER, CLIENT)
        assert ask(*pair.place("quick")) == "quick"


def wait_ended(trial: dict[str, Any]) -> None:
    """Until neither the process on trial runs nor a worker."""
    pids = [trial["pid"], *(worker["pid"] for worker in trial["workers"])]
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), what="all have ended", timeout=20)


def on_trial(estate: Estate) -> dict[str, Any]:
    answer = status(estate, SERVER)
    return answer if answer.get("on_trial") else {}


@pytest.mark.slow
def test_signals_reach_the_version_on_trial(estate: Estate, installed: Installed) -> None:
    """SIGTERM ends the node, whichever process serves; SIGHUP is followed by the one that comes out of it."""
    with Backend("quick") as quick:
        start_pair(estate, {"quick": quick.target}, direct=True, workers=2)
        installed.version("2.0.0")
        node = estate.nodes[SERVER]
        node.signal(signal.SIGHUP)
        trial = eventually(lambda: on_trial(estate), what="the trial", timeout=30)
        assert trial["version"] == "2.0.0" and trial["pid"] != node.pid
        node.signal(signal.SIGHUP)
        wait_version(estate, SERVER, "2.0.0")
        eventually(
            lambda: "with new workers" in status(estate, SERVER)["last_reload"], what="the second wish", timeout=80
        )
        installed.version("3.0.0")
        node.signal(signal.SIGHUP)
        trial = eventually(lambda: on_trial(estate), what="the trial", timeout=30)
        node.signal(signal.SIGTERM)
        assert node.wait(40) == 0
        wait_ended(trial)


@pytest.mark.slow
def test_nothing_stays_of_one_on_trial_when_the_node_is_killed(estate: Estate, installed: Installed) -> None:
    with Backend("quick") as quick:
        start_pair(estate, {"quick": quick.target}, direct=True, workers=2)
        installed.version("2.0.0")
        node = estate.nodes[SERVER]
        node.signal(signal.SIGHUP)
        trial = eventually(lambda: on_trial(estate), what="the trial", timeout=30)
        node.kill9()
        wait_ended(trial)
        estate.start_agent(SERVER)
        wait_connected(estate, SERVER, CLIENT)


@pytest.mark.slow
def test_what_is_no_longer_allowed_ends_while_a_version_is_tried(estate: Estate, installed: Installed) -> None:
    """It runs through a worker of the version before, whose channel the supervisor that waits has as well."""
    with Backend("held", hold) as held:
        pair = start_pair(estate, {"held": held.target}, direct=True, workers=2)
        with session(*pair.place("held")) as kept:
            assert is_alive(kept)
            installed.version("2.0.0")
            estate.nodes[SERVER].signal(signal.SIGHUP)
            trial = eventually(lambda: on_trial(estate), what="the trial", timeout=30)
            assert is_alive(kept)
            estate.apply_policy(allow(f"host:{CLIENT}", "nothing"))
            wait_cut(kept)
            assert status(estate, SERVER)["pid"] == trial["pid"], "it was still on trial"
        wait_version(estate, SERVER, "2.0.0")


@pytest.mark.slow
def test_what_is_taken_away_before_a_version_serves_ends_with_its_trial(estate: Estate, installed: Installed) -> None:
    """It runs through a worker that nobody could tell: the version on trial stands still before it hears anybody, and
    the one before begins anew."""
    limits = installed.place / "bridge" / "limits.py"
    limits.write_text(limits.read_text().replace("\nTRIAL_START = 30.0\n", "\nTRIAL_START = 6.0\n"))
    estate.init()
    estate.start_gateway()
    estate.ok(OPERATOR, "host", "add", "box", "--reach", "tcp://127.0.0.1", "--via", "gw1", "--allow-loopback")
    estate.ok(OPERATOR, "client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)
    estate.apply_policy(allow("client:lpar7", "held"))
    with Backend("held", hold) as held:
        estate.service_add("held", host="box", target=held.target, port=80)
        place = ("127.0.0.1", estate.free_port())
        estate.ok(OPERATOR, "service", "publish", "held", "--via", "gw1", "--listen", "{}:{}".format(*place))

        def connected() -> socket.socket | None:
            with contextlib.suppress(OSError):
                sock = socket.create_connection(place, 10, source_address=(LPAR7, 0))
                if sock.recv(100) == b"held\n":
                    return sock
                sock.close()
            return None

        kept = eventually(connected, what="a stream", timeout=20)
        assert kept is not None
        with kept:
            break_it(installed, Fails("agents/node.py", RUN, "        __import__('time').sleep(3600)\n", ""))
            installed.version("2.0.0")
            estate.nodes[OPERATOR].signal(signal.SIGHUP)
            eventually(lambda: not status(estate, OPERATOR), what="that nobody answers")
            assert is_alive(kept)
            estate.apply_policy(allow("client:lpar7", "nothing"))
            assert is_alive(kept), "nobody can tell the worker"
            assert "stood still for 6 s" in refused(estate, OPERATOR, "")
            wait_cut(kept)


@pytest.mark.slow
def test_what_was_taken_away_at_the_last_moment_stays_so(estate: Estate, installed: Installed) -> None:
    """The version on trial, the one before and the one after it read from disk what each knew: what had come last
    counts, though no gateway is there to say it again."""
    limits = installed.place / "bridge" / "limits.py"
    limits.write_text(limits.read_text().replace("\nSAVE_DELAY = 0.2\n", "\nSAVE_DELAY = 600.0\n"))
    with Backend("quick") as quick:
        start_pair(estate, {"quick": quick.target}, direct=True, workers=2)
        estate.apply_policy(allow(f"host:{CLIENT}", "nothing"))
        number = status(estate, OPERATOR)["policy_number"]
        eventually(lambda: status(estate, SERVER)["policy_number"] == number, what="the policy")
        estate.nodes[OPERATOR].kill9()
        node = estate.nodes[SERVER]
        installed.version("2.0.0")
        node.signal(signal.SIGHUP)
        trial = eventually(lambda: on_trial(estate), what="the trial", timeout=30)
        assert trial["policy_number"] == number
        wait_version(estate, SERVER, "2.0.0")
        assert status(estate, SERVER)["policy_number"] == number
