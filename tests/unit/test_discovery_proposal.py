"""Pure: looks become a proposal: what is offered, used and by whom; the text is a policy whatever the box said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.checks.spec import parse_check
from agents.discovery.proposal import Proposal, propose
from agents.discovery.report import DECIDE, RUN, as_data, as_text
from agents.discovery.seen import Seen
from agents.discovery.sockets import ANY, End, Look, Socket
from agents.discovery.well_known import _PORTS
from agents.discovery.whose import Box, Whose, host_name_of
from bridge import limits
from inventory.authority.state import AuthorityState
from inventory.loading.policy_file import parse_policy
from inventory.model import Admission, Client, Gateway, Host, Presence, Publication, Reach
from inventory.names import parse_host, parse_service
from inventory.snapshot import Snapshot
from tests.support.estates import NOON, instance, rule, snapshot
from tests.support.typed_commands import parse_typed

HERE = "10.1.0.7"
BOX = Box("aix1", is_host=True, gateway="gw1", ssh_port=22)


def listening(port: int, address: str = ANY, program: str = "") -> Socket:
    return Socket("listening", End(address, port), None, program)


def incoming(port: int, other: str, at: int = 50000) -> Socket:
    return Socket("open", End(HERE, port), End(other, at))


def outgoing(other: str, port: int, at: int = 40000, state: Any = "open", program: str = "") -> Socket:
    return Socket(state, End(HERE, at), End(other, port), program)


def estate(*rules: object) -> Snapshot:
    """aix1 and zos1 behind gw1, vm1 with an agent; `ledger` on zos1 and `web` on vm1."""
    hosts = [Host(name="aix1", via="gw1"), Host(name="zos1", via="gw1"), Host(name="vm1")]
    places = [
        instance("ledger", "zos1", target="127.0.0.1:50000"),
        instance("web", "vm1", target="127.0.0.1:9000"),
        instance("print", "aix1", target="10.5.0.1:9100"),
    ]
    found = snapshot(hosts, places, rules, clients=[Client(name="tills", gateways=("gw2",))])  # type: ignore[arg-type]
    reaches = {
        name: Reach(host=name, gateway="gw1", url=f"ssh://mesh@{address}", host_keys=("ssh-ed25519 AAAA",))
        for name, address in (("aix1", HERE), ("zos1", "10.1.0.8"))
    }
    authority: AuthorityState = found.authority
    changed = {
        "gateways": {"gw1": Gateway(name="gw1", address="10.1.0.1:7443")},
        "reaches": reaches,
        "admissions": {"tills": Admission(client="tills", sources=("10.7.0.0/16",))},
        "publications": {"x": Publication(service="web", gateway="gw1", listen=f"{HERE}:8081")},
    }
    import dataclasses

    presence = {"vm1": Presence(host="vm1", online=True, advertise="10.2.0.1:7443")}
    return dataclasses.replace(found, authority=dataclasses.replace(authority, **changed), presence=presence)


def proposed(
    *looks: list[Socket], known: Snapshot | None = None, bridge: Mapping[str | End, str] | None = None, box: Box = BOX
) -> tuple[Proposal, str]:
    ways = bridge or {}
    seen = Seen(lambda end: end in ways or end.address in ways)
    for number, sockets in enumerate(looks):
        seen.add(Look(tuple(sockets)), NOON + 60 * number)
    proposal = propose(seen, box, Whose(known, ways, NOON))
    text = as_text(proposal, seen, box)
    parse_policy(text.encode())
    assert as_data(proposal, seen, box)["policy"] == text
    msgspec.json.encode(as_data(proposal, seen, box))
    return proposal, text


def commands(text: str, mark: str) -> list[str]:
    """Those with the mark, each of which the command line understands."""
    found = [line[len(mark) :] for line in text.splitlines() if line.startswith(mark)]
    for line in found:
        parse_typed(line)
    return found


def test_what_it_offers_is_a_service_for_those_who_were_seen_at_it() -> None:
    looks = [listening(1414, program="amqrmppa"), incoming(1414, "10.1.0.8"), incoming(1414, "10.7.3.4", 50001)]
    _, text = proposed(looks, known=estate())
    place = "meshbridge service add mq-aix1 --host aix1 --target 127.0.0.1:1414 --check tcp"
    assert commands(text, RUN) == [place]
    assert "#    'amqrmppa' listens on *:1414" in text
    [found] = parse_policy(text.encode()).rules
    assert (found.sources, found.to, found.mode) == (("client:tills", "host:zos1"), ("mq-aix1",), "observe")
    assert "host:zos1 (10.1.0.8): 1 connection, first 2027-01-15 08:00:00Z, last 2027-01-15 08:00:00Z" in text


def test_a_port_at_which_nobody_was_seen_is_no_command_to_run() -> None:
    _, text = proposed([listening(1521, "10.1.0.9")], known=estate())
    assert commands(text, RUN) == commands(text, DECIDE) == []
    assert "# nobody was seen at it: meshbridge service add oracle-aix1 --host aix1 --target 10.1.0.9:1521" in text


def test_what_it_uses_on_a_known_host_is_placed_there() -> None:
    _, text = proposed([outgoing("10.1.0.8", 1414), outgoing("10.2.0.1", 5432, 40001)], known=estate())
    assert commands(text, RUN) == [
        "meshbridge service add mq-zos1 --host zos1 --target 10.1.0.8:1414 --check tcp",
        "meshbridge service add postgres-vm1 --host vm1 --target 10.2.0.1:5432 --check tcp",
    ]
    assert [r.sources for r in parse_policy(text.encode()).rules] == [("host:aix1",)] * 2


def test_what_is_placed_already_is_only_ruled_on() -> None:
    proposal, text = proposed([outgoing("10.1.0.8", 50000), outgoing("10.5.0.1", 9100, 40001)], known=estate())
    assert commands(text, RUN) == commands(text, DECIDE) == []
    assert "# ledger at 10.1.0.8:50000: placed already" in text and "# print at 10.5.0.1:9100: placed" in text
    assert [r.service for r in proposal.rules] == ["ledger", "print"]


def test_what_a_rule_allows_already_is_only_said() -> None:
    known = estate(rule("books", "allow", "host:aix1", "ledger"))
    proposal, text = proposed([outgoing("10.1.0.8", 50000)], known=known)
    assert not proposal.rules and "# host:aix1 -> ledger: allowed by 'books'" in text


def test_who_is_not_in_the_estate_needs_a_decision() -> None:
    looks = [listening(23), incoming(23, "192.0.2.9"), outgoing("192.0.2.5", 1521), outgoing("2001:db8::5", 80, 40001)]
    _, text = proposed(looks, known=estate())
    assert commands(text, RUN) == ["meshbridge service add telnet-aix1 --host aix1 --target 127.0.0.1:23 --check tcp"]
    assert set(commands(text, DECIDE)) == {
        "meshbridge service add oracle-host-192-0-2-5 --host host-192-0-2-5 --target 192.0.2.5:1521 --check tcp",
        "meshbridge host add host-192-0-2-5 --reach tcp://192.0.2.5 --via gw1",
        "meshbridge service add http-host-2001-0db8-0000-0000-0000-0000-0000-0005"
        " --host host-2001-0db8-0000-0000-0000-0000-0000-0005 --target '[2001:db8::5]:80' --check tcp",
        "meshbridge host add host-2001-0db8-0000-0000-0000-0000-0000-0005 --reach 'tcp://[2001:db8::5]' --via gw1",
        "meshbridge client add client-192-0-2-9 --via gw1 --source 192.0.2.9",
    }
    assert "client:client-192-0-2-9" in text


def test_many_strangers_out_of_one_network_are_one_client() -> None:
    count = limits.DISCOVER_NETWORK_FROM
    looks = [listening(23), *(incoming(23, f"192.0.2.{n + 1}") for n in range(count)), incoming(23, "198.51.100.1")]
    proposal, text = proposed(looks, known=estate())
    assert [r.subjects for r in proposal.rules] == [["client:client-192-0-2-0-24", "client:client-198-51-100-1"]]
    assert "--source 192.0.2.0/24" in text and f"client-192-0-2-0-24: {count} connections" in text


def test_a_connection_counts_once_for_as_long_as_it_lasts() -> None:
    stays, other = outgoing("10.1.0.8", 50000), outgoing("10.1.0.8", 50000, 40001, "asking")
    proposal, text = proposed([stays], [stays, other], [stays], [other], known=estate())
    [[caller]] = [r.callers for r in proposal.rules]
    assert (caller.peer.connections, caller.peer.unanswered) == (3, 2)
    assert "3 connections, 2 not answered, first 2027-01-15 08:00:00Z, last 2027-01-15 08:03:00Z" in text
    assert text.startswith("# What aix1 talks to: 4 looks, 2027-01-15 08:00:00Z to 2027-01-15 08:03:00Z.")


def test_the_estates_own_connections_are_left_out() -> None:
    own = [
        listening(22),
        listening(8081, HERE),
        incoming(22, "10.1.0.1"),
        incoming(8081, "192.0.2.1"),
        outgoing("10.1.0.1", 7443),
        outgoing("10.2.0.1", 7443, 40001),
    ]
    proposal, text = proposed(own, known=estate())
    assert proposal.own_nodes == 4 and not proposal.rules and not proposal.clients
    assert "# connections between nodes of the estate, left out: 4" in text
    assert "8081" not in text


def test_a_gateways_own_ssh_connections_are_left_out() -> None:
    for gateway, expected in (("gw1", []), ("", ["ssh-zos1"])):
        seen = Seen()
        seen.add(Look((outgoing("10.1.0.8", 22),)), NOON)
        made = propose(seen, BOX, Whose(estate(), {}, NOON, gateway))
        assert [service.name for service in made.services] == expected


def test_what_goes_through_the_bridge_is_known_by_name() -> None:
    sockets = [
        Socket("listening", End("127.96.3.4", 80), None, "meshbridge"),
        Socket("open", End("127.0.0.1", 40000), End("127.96.3.4", 80), "curl"),
        Socket("open", End("127.96.3.4", 80), End("127.0.0.1", 40000), "meshbridge"),
    ]
    proposal, text = proposed(sockets, known=estate(), bridge={"127.96.3.4": "web.dc1"})
    assert "# web at 127.96.3.4:80: through the bridge already" in text and "'curl' in 1 connection" in text
    assert [r.service for r in proposal.rules] == ["web"] and commands(text, RUN) == []
    ports: dict[str | End, str] = {End("127.0.0.1", 1414): "mq"}
    job = [listening(1414, "127.0.0.1"), Socket("open", End("127.0.0.1", 40000), End("127.0.0.1", 1414))]
    assert "# mq at 127.0.0.1:1414: through the bridge already" in proposed(job, bridge=ports)[1]


def test_connections_within_the_box_are_counted_and_left_out() -> None:
    pair = [
        listening(5432),
        Socket("open", End("127.0.0.1", 40000), End("127.0.0.1", 5432)),
        Socket("open", End("127.0.0.1", 5432), End("127.0.0.1", 40000)),
        Socket("open", End(HERE, 40000), End(HERE, 5432)),
        Socket("open", End(HERE, 5432), End(HERE, 40000)),
    ]
    proposal, text = proposed(pair)
    assert not proposal.rules and "# connections within the box, left out: 2" in text


def test_ftps_second_connections_are_said_and_not_ruled_on() -> None:
    sockets = [
        outgoing("10.1.0.8", 21),
        outgoing("10.1.0.8", 45000, 40001),
        outgoing("10.1.0.8", 50000, 40003),
        Socket("open", End(HERE, 40002), End("10.1.0.8", 20)),
    ]
    proposal, text = proposed(sockets, known=estate())
    assert [r.service for r in proposal.rules] == ["ftp-zos1", "ledger"] and proposal.ftp_data == 2
    assert "over which FTP sends files: 2; see docs/legacy/ftp.md" in text


def test_a_machine_that_the_estate_lacks_is_to_be_added_first() -> None:
    box = Box(host_name_of("DB_1.corp"), is_host=False)
    _, text = proposed([listening(80), incoming(80, "192.0.2.1")], box=box)
    assert commands(text, RUN) == []
    assert commands(text, DECIDE) == [
        "meshbridge host add this-host",
        "meshbridge client add client-192-0-2-1 --via GATEWAY --source 192.0.2.1",
        "meshbridge service add http-this-host --host this-host --target 127.0.0.1:80 --check tcp",
    ]
    assert host_name_of("Web7.corp.example") == "web7"


def test_two_ports_that_are_called_the_same_have_two_names() -> None:
    sockets = [listening(50000, "10.1.0.7"), listening(50000, "10.1.0.9"), incoming(50000, "10.1.0.8")]
    sockets.append(Socket("open", End("10.1.0.9", 50000), End("10.1.0.8", 50001)))
    proposal, _ = proposed(sockets, known=estate())
    assert [s.name for s in proposal.services] == ["db2-aix1", "db2-aix1-2"]


def test_names_and_checks_of_ports_are_good() -> None:
    for known in _PORTS.values():
        assert parse_service(f"{known.word}-x") == f"{known.word}-x"
        parse_check(known.check)


HOSTILE = '\x1b]0;x\x07\'"\n[[allow]]\nname = "all"\r#$ meshbridge host add evil\u2028\u202e'


def test_what_a_box_calls_its_programs_stays_in_a_comment() -> None:
    sockets = [listening(80, program=HOSTILE), outgoing("10.1.0.8", 1414, program=HOSTILE)]
    proposal, text = proposed(sockets, known=estate())
    assert text.isascii() and all(line.isprintable() for line in text.splitlines())
    assert len(parse_policy(text.encode()).rules) == len(proposal.rules) == 1
    assert all("evil" not in line for line in commands(text, RUN))


@pytest.mark.parametrize("known", [None, estate(rule("all", "allow", "host:**", "*"))], ids=["no home", "an estate"])
@given(
    st.lists(
        st.builds(
            Socket,
            st.sampled_from(["open", "asking", "answering"]),
            st.builds(End, st.sampled_from([HERE, "127.0.0.1", "::1", "2001:db8::7"]), st.integers(1, 65535)),
            st.builds(
                End, st.sampled_from(["10.1.0.8", "10.2.0.1", "192.0.2.1", "2001:db8::9", HERE]), st.integers(1, 65535)
            ),
            st.text(max_size=6),
        ),
        max_size=6,
    ),
    st.lists(st.sampled_from([20, 21, 22, 23, 1414, 7443, 60000]), max_size=3),
)
def test_every_proposal_is_a_policy(known: Snapshot | None, sockets: list[Socket], ports: list[int]) -> None:
    proposal, text = proposed([*map(listening, ports), *sockets], known=known)
    for found in parse_policy(text.encode()).rules:
        assert found.mode == "observe"
    for service in proposal.services:
        assert parse_service(service.name) == service.name and (service.is_bridged or parse_host(service.host))


def test_h30_more_peers_than_are_told_apart_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DISCOVER_PEERS_MAX", 10)
    _, text = proposed([outgoing("10.1.0.8", port, port) for port in range(1, 40) if port not in (20, 21)])
    assert "# Sightings left out because there were too many different ones: 27." in text
