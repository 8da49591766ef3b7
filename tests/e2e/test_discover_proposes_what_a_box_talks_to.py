"""I/O: `meshbridge discover` with real sockets, without an estate and on a host of one; it changes nothing."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

from tests.support.estate import Estate
from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually


def test_a_listener_is_found_with_its_program_and_the_text_is_a_policy(estate: Estate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = estate.ok("nowhere", "discover")
        name = Path("/proc/self/comm").read_text().strip()
        assert f"--target 127.0.0.1:{port} --check tcp\n#    '{name}' listens on 127.0.0.1:{port}" in text
        found = json.loads(estate.ok("nowhere", "-o", "json", "discover"))
    assert [s["port"] for s in found["services"] if s["port"] == port] == [port]
    assert estate.cli("nowhere", "policy", "check", "-", input=text).returncode == 0
    assert not estate.home("nowhere").exists()


def test_an_interrupt_ends_it_early_and_still_reports(estate: Estate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        looking = estate.start("discover", estate.command("nowhere", "discover", "--for", "1h"))
        looking.stderr.wait_for("looking for 3600 s", 20)
        looking.signal(signal.SIGINT)
        assert looking.wait(20) == 0
        looking.stdout.wait_for(f"127.0.0.1:{server.getsockname()[1]}", 5)


def test_what_an_agents_host_uses_through_the_bridge_is_known_by_name(town: Town) -> None:
    service = town.name("ledger")
    with Backend("one") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("ledger", '"host:app"', f'"{service}"'))
        host, port = town.address("app", service)
        eventually(lambda: ask(host, port))
        with socket.create_connection((host, port)):
            text = town.estate.ok("app", "discover")
    assert f"# {service} at {host}:{port}: through the bridge already" in text
    assert f"# host:app -> {service}: allowed by 'ledger'" in text
    assert f'to = ["{service}"]' not in text and f" {host}:" not in text.replace(f" at {host}:", "")
    assert f"{town.estate.gateway_address}" not in text, "the estate's own nodes are left out"
