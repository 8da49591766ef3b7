"""I/O: `upgrade.yml` on real machines, under load: a good release costs no request, and neither does a broken one.

The tests share one estate; each leaves it as well as it found it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.conftest import why_no_root_tests
from tests.support.ansible_controller import Played
from tests.support.ansible_estate import AGENTS, CANARY, GATEWAY, NO_SYSTEMD, AnsibleEstate, broken
from tests.support.archives import Change
from tests.support.traffic import Load, eventually

pytestmark = pytest.mark.skipif(why_no_root_tests() is not None, reason=str(why_no_root_tests()))

BEGUN_WITHIN = 120.0
FIRST = "0.1.0"
MACHINES = (GATEWAY, *AGENTS)
SAID_INSTEAD = {"Unpack it there": "Say what would be brought"}
HANDLERS = "Restart it now if it has to be"
"""They follow from what is told before, and one that is a command is passed over in check mode."""

NODE = "agents/node.py"
DOES_NOT_RUN = broken("cli/main.py", "import click\n", "import click_of_tomorrow as click\n")
CANNOT_BE_IMPORTED = broken("agents/host_agent.py", "import trio\n", "import trio_of_tomorrow as trio\n")
ENDS = broken(NODE, "        raise_descriptor_limit()\n", "        raise RuntimeError('broken on purpose')\n")
HANGS = broken(NODE, "            await self.start(nursery)\n", "            __import__('time').sleep(3600)\n")
FINDS_NO_GATEWAY = broken(
    "agents/control/client.py",
    "            self._connect(self.gateway, theirs)\n",
    "            raise PeerError('no way from here')\n",
)


@dataclass(frozen=True)
class Broken:
    """A release that fails on a host, and what is said of it."""

    change: Change
    says: str
    host: str = CANARY


KINDS = {
    "it does not run there at all": Broken(DOES_NOT_RUN, "the release does not run on this machine"),
    "it cannot be imported": Broken(CANNOT_BE_IMPORTED, "cannot be started: ModuleNotFoundError"),
    "it ends at once": Broken(ENDS, "RuntimeError"),
    "it ends at once, without systemd": Broken(ENDS, "RuntimeError", NO_SYSTEMD),
    "it hangs": Broken(HANGS, "stood still"),
    "it finds no gateway": Broken(FINDS_NO_GATEWAY, "no way from here"),
}


@pytest.fixture
def load(installed: AnsibleEstate) -> Iterator[Load]:
    with installed.load() as load:
        load.wait_for(20)
        yield load
    failed, total = len(load.failures), load.total + len(load.failures)
    print(f"{failed} of {total} requests failed; the slowest took {load.slowest:.1f} s")


def told(played: Played) -> list[tuple[str, str]]:
    return sorted((SAID_INSTEAD.get(task, task), host) for task, host in played.changes if task != HANDLERS)


def main_pid(estate: AnsibleEstate, name: str) -> str:
    if name == NO_SYSTEMD:
        return estate.machine(name).run("cat", "/var/run/meshbridge-agent.pid").strip()
    unit = "meshbridge-gateway" if name == GATEWAY else "meshbridge-agent"
    return estate.machine(name).run("systemctl", "show", "-p", "MainPID", "--value", unit).strip()


def went_back(estate: AnsibleEstate, played: Played, host: str, says: str, before: dict[str, str]) -> None:
    """The play has ended there with a sentence, and everything is as it was."""
    assert played.code != 0
    last = played.failures[-1]
    assert last.startswith(f"{host}: ") and says in last and "\n" not in last
    assert last.endswith(f"it runs {before[host]} again"), last
    assert set(played.recap) == {host}, "no other host is touched"
    assert estate.versions() == before and estate.current(host) == before[host]
    assert not any(estate.is_drained(name) for name in AGENTS)


def test_a_good_release_costs_no_request(installed: AnsibleEstate, load: Load) -> None:
    pids = {name: main_pid(installed, name) for name in MACHINES}
    wanted = {"meshbridge_version": installed.release(), "meshbridge_serial": [1, "100%"]}
    predicted = installed.controller.play("upgrade", "--check", "--diff", **wanted).ok()
    assert set(installed.versions().values()) == {FIRST}
    played = installed.controller.play("upgrade", **wanted).ok()
    assert told(predicted) == told(played)
    assert set(installed.versions().values()) == {wanted["meshbridge_version"]}
    assert {installed.current(name) for name in MACHINES} == {wanted["meshbridge_version"]}
    assert {name: main_pid(installed, name) for name in MACHINES} == pids, "each became it in place"
    assert not any(installed.is_drained(name) for name in AGENTS)
    again = installed.controller.play("upgrade", **wanted).ok()
    assert again.total("changed") == 0, again.changes
    load.wait_for(20)
    assert not load.failures, load.failures[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_release_goes_back_by_itself_and_costs_no_request(
    installed: AnsibleEstate, load: Load, kind: str
) -> None:
    given, before = KINDS[kind], installed.versions()
    # All agents, of which the first one is the canary; the one without systemd is never the first.
    limit = "meshbridge_agents" if given.host == CANARY else given.host
    version = installed.release(given.change)
    played = installed.controller.play("upgrade", "--limit", limit, meshbridge_version=version)
    went_back(installed, played, given.host, given.says, before)
    load.wait_for(20)
    assert not load.failures, load.failures[:3]


def test_the_only_one_that_serves_is_not_drained_and_goes_on(installed: AnsibleEstate, load: Load) -> None:
    installed.say(GATEWAY, "service", "drain", "web", "--host", NO_SYSTEMD)
    load.wait_for(40)
    before, given = installed.versions(), KINDS["it ends at once"]
    version = installed.release(given.change)
    played = installed.controller.play("upgrade", "--limit", CANARY, meshbridge_version=version)
    went_back(installed, played, CANARY, given.says, before)
    assert f"{CANARY} is not drained: nobody else could serve web" in played.text
    version = installed.release()
    predicted = installed.controller.play("upgrade", "--check", "--limit", CANARY, meshbridge_version=version).ok()
    played = installed.controller.play("upgrade", "--limit", CANARY, meshbridge_version=version).ok()
    assert told(predicted) == told(played)
    assert installed.versions()[CANARY] == version
    load.wait_for(20)
    assert not load.failures, load.failures[:3]
    installed.say(GATEWAY, "service", "resume", "web", "--host", NO_SYSTEMD)


def test_a_broken_gateway_goes_back_and_hosts_go_on(installed: AnsibleEstate, load: Load) -> None:
    """What goes through the gateway itself included."""
    before = installed.versions()
    load.wait_for(40)
    version = installed.release(ENDS)
    played = installed.controller.play("upgrade", meshbridge_version=version)
    went_back(installed, played, GATEWAY, "RuntimeError", before)
    assert not load.failures, load.failures[:3]
    installed.release(version=version)
    installed.controller.play("upgrade", "--limit", GATEWAY, meshbridge_version=version).ok()
    assert installed.versions() == {**before, GATEWAY: version}, "once it is mended, under the same name"


def test_a_run_that_was_killed_is_completed_by_the_next_and_three_releases_stay(
    installed: AnsibleEstate, load: Load
) -> None:
    for _ in range(2):
        version = installed.release()
        with installed.controller.begin("upgrade", "--limit", CANARY, meshbridge_version=version) as playing:
            eventually(lambda: installed.current(CANARY) == version, timeout=BEGUN_WITHIN, what="the link")  # noqa: B023
            playing.kill()
        assert installed.is_drained(CANARY), "killed half way"
        installed.controller.play("upgrade", "--limit", CANARY, meshbridge_version=version).ok()
        assert installed.versions()[CANARY] == version and not installed.is_drained(CANARY)
    assert len(installed.releases(CANARY)) == 3
    installed.controller.play("upgrade", "--limit", CANARY, meshbridge_version=FIRST).ok()
    assert installed.versions()[CANARY] == FIRST, "down again"
    load.wait_for(20)
    assert not load.failures, load.failures[:3]
