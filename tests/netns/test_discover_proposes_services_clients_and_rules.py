"""I/O: what one machine talks to, seen from its own namespace, in an estate that knows some of the others.

box 10.77.1.2 ─── lan ─── 10.77.1.1 gw     10.77.1.3 vm2, a host of the estate     10.77.1.9, nobody's
"""

from __future__ import annotations

import json
import shlex
import socket
from contextlib import ExitStack

import pytest

from tests.support.estate import OPERATOR, Estate
from tests.support.network import GATEWAY_PORT, Network, place

pytestmark = pytest.mark.root


def test_discover_proposes_services_clients_and_rules(network: Network, estate: Estate) -> None:
    for name, address in (("gw", "1"), ("box", "2"), ("vm2", "3"), ("stranger", "9")):
        network.host(name, lan=f"10.77.1.{address}/24")
    place(estate, network, **{OPERATOR: "gw"})
    estate.init(gateway=f"10.77.1.1:{GATEWAY_PORT}")
    for name, address in (("box", "10.77.1.2"), ("vm2", "10.77.1.3")):
        estate.ok(OPERATOR, "host", "add", name, "--reach", f"tcp://{address}", "--via", "gw1")
    estate.prefixes[OPERATOR] = network.prefix("box")  # the operator's home, seen from the box
    with ExitStack() as stack:

        def listen(host: str, address: str, port: int) -> socket.socket:
            with network.inside(host):
                return stack.enter_context(socket.create_server((address, port)))

        def connect(host: str, address: str, port: int) -> None:
            with network.inside(host):
                stack.enter_context(socket.create_connection((address, port), 5))

        listen("box", "0.0.0.0", 1414)
        listen("vm2", "10.77.1.3", 50000)
        connect("box", "10.77.1.3", 50000)
        connect("stranger", "10.77.1.2", 1414)
        text = estate.ok(OPERATOR, "discover")
        found = json.loads(estate.ok(OPERATOR, "-o", "json", "discover", "--for", "3s"))
        for line in text.splitlines():
            if line.startswith("#$ meshbridge "):
                estate.ok(OPERATOR, *shlex.split(line.removeprefix("#$ meshbridge ")))
        assert "# db2-vm2 at 10.77.1.3:50000: placed already" in estate.ok(OPERATOR, "discover")

    me = found["host"]
    assert (
        f"#$ meshbridge service add db2-vm2 --host vm2 --target 10.77.1.3:50000 --check tcp\n#    host:{me}: " in text
    )
    assert f"#? meshbridge service add mq-{me} --host {me} --target 127.0.0.1:1414 --check tcp" in text
    assert "#? meshbridge client add client-10-77-1-9 --via gw1 --source 10.77.1.9" in text
    rules = {rule["to"][0]: rule["from"] for rule in found["rules"]}
    assert rules == {"db2-vm2": [f"host:{me}"], f"mq-{me}": ["client:client-10-77-1-9"]}
    assert found["looks"] >= 2 and {c["connections"] for s in found["services"] for c in s["callers"]} == {1}
    checked = estate.cli(OPERATOR, "policy", "check", "-", input=text)
    assert checked.returncode == 0 and "good: 2 rules, 2 allow, 0 deny, 2 only observed" in checked.stderr
