"""I/O: from an empty home, the commands of the documents work as written, on one machine, in under a minute.

As whoever runs the tests, and as a user without any privilege: nothing of it needs root.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.support import by_hand
from tests.support.by_hand import Person
from tests.support.consul_server import ConsulServer
from tests.support.consul_server import options as consul_options
from tests.support.estate import Estate

NOBODY = 65534
MINUTE = 60.0


def numbers(estate: Estate, server: int) -> dict[str, str]:
    """What stands for the numbers of the documents here and now."""
    slices = [estate.next_slice(), estate.next_slice()]
    return {
        "127.0.0.1:17443": estate.free_endpoint(),
        "127.97.0.0/16": slices[0],
        "127.98.0.0/16": slices[1],
        "127.98.0.1": str(ip_network(slices[1])[1]),
        "127.0.0.1:9000": f"127.0.0.1:{server}",
    }


def looked_up(person: Person, slice_: str) -> str:
    """What DNS says, by `dig` where that is installed."""
    if shutil.which("dig"):
        return person.types(by_hand.DIG).strip()
    query = dns.message.make_query("web.bridge.internal", "A")
    answer = dns.query.udp(query, str(ip_network(slice_)[1]), timeout=2, port=5300)
    return str(answer.answer[0][0])


def follow(person: Person, slice_: str) -> None:
    """The whole text, in its order."""
    began = time.monotonic()
    with contextlib.ExitStack() as running:
        person.types(by_hand.INIT)
        running.callback(person.runs(by_hand.GATEWAY, "gateway").end)
        person.types(by_hand.JOIN_1)
        person.types(by_hand.JOIN_2)
        agents = [person.runs(line, name) for line, name in ((by_hand.AGENT_1, "vm1"), (by_hand.AGENT_2, "vm2"))]
        for agent in agents:
            running.callback(agent.end)
        person.types(by_hand.SERVICE)
        person.types(by_hand.POLICY)
        assert person.types_until(by_hand.CURL, "hello") == "hello from web\n"
        assert ip_address(looked_up(person, slice_)) in ip_network(slice_)
        took = time.monotonic() - began
        print(f"by hand in {took:.1f} s")
        assert took < MINUTE


@pytest.mark.slow
def test_the_commands_work_as_written(estate: Estate) -> None:
    instead = numbers(estate, estate.start_server("http", name="web"))
    directory = estate.path / "by-hand"
    directory.mkdir()
    follow(Person(directory, instead=instead), instead["127.98.0.0/16"])


@pytest.mark.slow
def test_the_same_commands_work_with_the_registry_in_consul(estate: Estate, consul: ConsulServer) -> None:
    options = shlex.join(consul_options(consul.place("by-hand/")))
    instead = {by_hand.INIT: f"{by_hand.INIT} --registry consul {options}"}
    instead |= numbers(estate, estate.start_server("http", name="web"))
    directory = estate.path / "by-hand"
    directory.mkdir()
    follow(Person(directory, instead=instead), instead["127.98.0.0/16"])


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory whose parents every user may enter, which those of tmp_path are not."""
    directory = Path(tempfile.mkdtemp(prefix="meshbridge-"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.slow
def test_a_user_without_root_can_do_all_of_it(estate: Estate, open_directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("these tests run without root already: the other test of this file shows it")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv (util-linux) to become another user")
    instead = numbers(estate, estate.start_server("http", name="web"))
    person = Person(open_directory, instead=instead, user=NOBODY)
    reason = person.why_not()
    if reason is not None:
        pytest.skip(reason)
    follow(person, instead["127.98.0.0/16"])
    owners = {path.stat().st_uid for path in open_directory.rglob("*")}
    assert owners <= {NOBODY, 0}
