"""I/O: (a home and its registry, no process) `host add` for a host without an agent: what is given changes, the rest
stays.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import CommandLine, operator_home


@pytest.fixture
def op(tmp_path: Path) -> CommandLine:
    return operator_home(tmp_path)


def test_what_is_given_changes_and_the_rest_stays(op: CommandLine) -> None:
    assert op.ok("host", "add", "box", "--reach", "tcp://192.0.2.7", "--via", "gw1", "--site", "dc1").out == ""
    assert op.ok("host", "add", "box", "--label", "os=aix").out == "", "and there is still no token"
    shown = op.ok("-o", "json", "host", "show", "box").json
    assert (shown["labels"], shown["site"], shown["via"]) == ({"os": "aix"}, "dc1", "gw1")
    assert "as it was" in op.ok("host", "add", "box").err
    op.ok("host", "add", "box", "--reach", "tcp://192.0.2.8")
    assert op.ok("-o", "json", "host", "show", "box").json["reach"] == "tcp://192.0.2.8"


def test_half_a_way_to_a_new_host_is_a_usage_error(op: CommandLine) -> None:
    assert "--via needs both" in op.refused(2, "host", "add", "box", "--via", "gw1")
    assert "--reach needs both" in op.refused(2, "host", "add", "box", "--reach", "tcp://192.0.2.7")
    assert "needs both" in op.refused(2, "host", "add", "box", "--allow-loopback")


def test_c38_a_service_on_the_gateways_own_port_is_refused(op: CommandLine) -> None:
    op.ok("host", "add", "box", "--reach", "tcp://127.0.0.1", "--via", "gw1", "--allow-loopback")
    address = next(g["address"] for g in op.ok("-o", "json", "gateway", "list").json if g["name"] == "gw1")
    own = f"127.0.0.1:{address.rpartition(':')[2]}"
    assert "the port of the gateway itself" in op.refused(64, "service", "add", "web", "--host", "box", "--target", own)
