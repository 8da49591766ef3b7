"""I/O: a refusal is clean for the client, in words for whoever asks, and on record."""

from __future__ import annotations

import socket

from tests.support.town import Town, allow, deny
from tests.support.traffic import Backend, eventually, is_refused


def test_a_client_that_only_listens_sees_the_end_of_the_stream(town: Town) -> None:
    service = town.name("cards")
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("all", '"host:**"', f'"{service}"') + deny("no web", '"label:role=web"', f'"{service}"'))
        address = town.address("app", service)
        assert eventually(lambda: is_refused(*address))
        with socket.create_connection(address, 5) as sock:
            assert sock.recv(1) == b""
        record = town.flow("app", service, "refused")
        assert (record["rule"], record["subject"], record["instance"]) == ("no web", "host:app", "")
        assert record["reason"] == "rule 'no web' denies it"
        assert backend.served == 0


def test_dial_prints_the_reason_and_ends_with_1(town: Town) -> None:
    service = town.name("cards")
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("all", '"host:**"', f'"{service}"') + deny("no web", '"label:role=web"', f'"{service}"'))
        town.address("app", service)
        done = town.estate.cli("app", "dial", service, input="?\n")
        assert (done.returncode, done.stdout) == (1, "")
        assert "rule 'no web' denies it" in done.stderr
        assert "policy explain host:app" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_service_without_a_rule_is_not_even_known(town: Town) -> None:
    service = town.name("secret")
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("another host", '"host:db2"', f'"{service}"'))
        town.address("db2", service)
        assert not town.knows("app", service)
        code, _, words = town.command("app", "resolve", service)
        assert code == 1
        assert "no rule lets app reach it" in words
        done = town.estate.cli("app", "dial", service)
        assert done.returncode == 1
        assert service not in str(town.status("app"))
