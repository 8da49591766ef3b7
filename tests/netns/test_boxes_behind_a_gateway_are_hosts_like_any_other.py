"""I/O: real sshds in namespaces that only the gateway's can reach: called, balanced, drained, revoked and shown as an
agent host is. The one difference is in `status`: where plaintext is seen, and by whom."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.behind import AT_CLIENT, BOXES, Behind
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate, allow
from tests.support.network import Network
from tests.support.pair import locate
from tests.support.traffic import Backend, ask, eventually, hold, is_refused, session, wait_cut

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def behind(openssh: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with (
        Network() as network,
        Estate(tmp_path_factory.mktemp("behind")) as estate,
        Behind(network, estate, agents=("vm1", "vm2")) as made,
    ):
        for name in ("aix1", "aix2"):
            made.add_box(name)
        made.add_port("old1")
        yield made


@pytest.fixture
def backends(behind: Behind) -> Iterator[Callable[..., Backend]]:
    """Servers on hosts; they end with the test."""
    made: list[Backend] = []

    def start(box: str, *args: Any, **more: Any) -> Backend:
        with behind.network.inside(box):
            made.append(Backend(f"on {box}", *args, **more))
        return made[-1]

    yield start
    for backend in made:
        backend.kill()


def call(behind: Behind, service: str) -> str:
    with behind.network.inside("vm1"):
        return ask(*behind.town.address("vm1", service))


def spread(behind: Behind, at: tuple[str, int], count: int = 40) -> Counter[str]:
    with behind.network.inside("vm1"):
        return Counter(ask(*at) for _ in range(count))


def test_a_caller_reaches_boxes_that_only_the_gateway_can(behind: Behind, backends: Callable[..., Backend]) -> None:
    services = {}
    for host in ("aix1", "aix2"):
        services[host] = backends(host).target
    services["old1"] = backends("old1", host=BOXES["old1"]).target
    for host, target in services.items():
        behind.town.place(f"ledger-{host}", host, target)
    behind.town.policy(allow("host:vm1", "*"))
    for host in services:
        assert eventually(partial(call, behind, f"ledger-{host}"), what=host) == f"on {host}"
    for name, box in BOXES.items():
        with behind.network.inside("vm1"), pytest.raises(OSError, match="unreachable"):
            socket.create_connection((box, 22), 2)
        with behind.network.inside(name), pytest.raises(OSError, match="unreachable"):
            socket.create_connection((AT_CLIENT, 22), 2)
    full = behind.boxes["aix2"]
    for _ in range(50):
        assert call(behind, "ledger-aix2") == "on aix2"
    assert full.count("Accepted publickey") == 1, "MaxStartups 2 never sees more than one login"
    assert full.count(r"Connection from") == 1 and full.count("MaxStartups|penalty|drop connection") == 0


def test_an_agentless_host_is_balanced_drained_and_resumed_beside_an_agent_host(
    behind: Behind, backends: Callable[..., Backend]
) -> None:
    for host in ("aix1", "vm2"):
        behind.town.place("shop", host, backends(host).target)
    behind.town.policy(allow("host:vm1", "shop"))
    at = locate(behind.estate, "vm1", "shop")
    both = {"on aix1", "on vm2"}
    eventually(lambda: set(spread(behind, at)) == both, what="both answer")
    found = spread(behind, at, 200)
    print(f"200 requests: {dict(found)}")
    assert set(found) == both and min(found.values()) >= 50, found
    for drained, other in (("aix1", "vm2"), ("vm2", "aix1")):
        behind.town.ok(OPERATOR, "host", "drain", drained, "--deadline", "5s")
        assert behind.state(drained) == "draining"
        assert set(spread(behind, at)) == {f"on {other}"}, f"{drained} drains"
        behind.town.ok(OPERATOR, "host", "resume", drained)
        eventually(lambda: set(spread(behind, at)) == both, what=f"{drained} is back")


def test_an_agentless_host_that_is_revoked_is_cut_as_an_agent_host_is(
    behind: Behind, backends: Callable[..., Backend]
) -> None:
    behind.town.place("desk", "aix2", backends("aix2", hold).target)
    behind.town.policy(allow("host:vm1", "desk"))
    at = locate(behind.estate, "vm1", "desk")
    with behind.network.inside("vm1"), session(*at) as live:
        behind.town.ok(OPERATOR, "host", "revoke", "aix2", "--reason", "stolen")
        took = wait_cut(live)
        assert took < 2, took
        assert behind.state("aix2") == "revoked"
        assert not behind.town.knows("vm1", "desk") or is_refused(*at)
    code, words = behind.town.explain("host:vm1", "desk")
    assert code == 1, words
    assert "revoked" in behind.town.ok(OPERATOR, "host", "show", "aix2")
    print(f"revoked and cut in {took:.2f} s")


def same_fields(one: Any, other: Any, where: str) -> None:
    """Both have the same fields, whatever is in them; a list is compared by its first item."""
    if isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            same_fields(value, other[key], f"{where}.{key}")
    elif isinstance(one, list) and isinstance(other, list):
        for mine, theirs in zip(one[:1], other[:1], strict=False):
            same_fields(mine, theirs, f"{where}[0]")
    else:
        assert not isinstance(one, dict | list) or other is None, where


def test_what_is_shown_of_both_kinds_of_host_has_the_same_fields(
    behind: Behind, backends: Callable[..., Backend]
) -> None:
    hosts = ("aix1", "old1", "vm2")
    for host in hosts:
        listen = {"host": BOXES[host]} if host == "old1" else {}
        behind.town.place(f"till-{host}", host, backends(host, **listen).target)
    behind.town.policy(allow("host:vm1", "*"))
    for host in hosts:
        assert eventually(partial(call, behind, f"till-{host}"), what=host) == f"on {host}"
    rows = {row["name"]: row for row in behind.json("host", "list")}
    shown: dict[str, dict[str, Any]] = {}
    for host in hosts:
        service = f"till-{host}"
        shown[host] = {
            "host list": rows[host],
            "host show": behind.json("host", "show", host),
            "service show": behind.json("service", "show", service),
            "policy explain": behind.json("policy", "explain", "host:vm1", service),
            "flows": behind.town.flow("vm1", service, "ok"),
        }
    for host in ("aix1", "old1"):
        for what, value in shown[host].items():
            same_fields(value, shown["vm2"][what], f"{host}: {what}")
        assert shown[host]["flows"]["instance"].startswith(f"till-{host}/{host}/")
        assert shown[host]["host list"]["presence"] == shown["vm2"]["host list"]["presence"] == "online"
        assert shown[host]["policy explain"]["allowed"] and shown["vm2"]["policy explain"]["allowed"], host
        print({what: list(value) for what, value in shown[host].items()})


def test_status_says_where_plaintext_is_seen_and_by_whom(behind: Behind) -> None:
    assert behind.reached("aix1")["plaintext"] == "gateway gw1"
    assert behind.reached("old1")["plaintext"] == "gateway gw1, and the network from there to the host"
    assert not behind.reached("vm2"), "between agents nobody sees any"
    said = behind.town.ok(OPERATOR, "status")
    assert "plaintext" in said.lower() and "the network from there to the host" in said
