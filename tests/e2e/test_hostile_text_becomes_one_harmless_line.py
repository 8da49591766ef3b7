"""I/O: what strangers and programs say reaches logs, records and terminals as one line of printable text (C44)."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.support.town import GATEWAY, Town, allow
from tests.support.traffic import Backend, eventually, wait_cut

EVIL = b'\x1b]0;owned\x07\r\n{"event":"forged"}\n\xe2\x80\xae\x00' + b"A" * 60000


@pytest.mark.parametrize("first", [b"", b"M", b"\x16\x03\x01"])
def test_c44_what_a_stranger_sends_is_one_json_line(town: Town, first: bytes) -> None:
    host, _, port = town.estate.gateway_address.rpartition(":")
    said = town.estate.nodes[GATEWAY].stderr
    before = said.count
    with socket.create_connection((host, int(port)), 15) as sock:
        mine = f"127.0.0.1:{sock.getsockname()[1]}"
        sock.sendall(first + EVIL)
        wait_cut(sock, 15)
    line = said.wait_for(mine, 15, after=before)
    for text in [line, *said.tail(20).splitlines()]:
        assert text.isascii() and text.isprintable()
        if text.startswith("{"):
            record = json.loads(text)
            assert record["event"] != "forged"
            assert len(text) <= 1024


def test_c44_what_a_check_says_is_harmless_in_status_and_tables(town: Town, tmp_path: Path) -> None:
    service = town.name("evil")
    plugin = tmp_path / "check_it"
    plugin.write_text('#!/bin/sh\nprintf \'\\033]0;owned\\007\\n{"event":"forged"}\\n\'; exit 2\n')
    plugin.chmod(0o755)
    with Backend("one") as backend:
        town.place(service, "db1", backend.target, "--check", f"exec:{plugin};interval=200ms")
        town.policy(allow("evil", '"host:app"', f'"{service}"'))
        instance = f"{service}/db1/{backend.target}"
        state, reason = eventually(lambda: town.health("db1").get(instance))
        assert state == "failing"
        assert reason.isprintable() and "owned" in reason
        for out in (town.ok("db1", "status"), town.ok("app", "status")):
            assert "\x1b" not in out and "\x07" not in out


def test_c44_a_refused_message_of_an_operator_is_named(town: Town) -> None:
    file = town.estate.path / "nothing.toml"
    file.write_text("# nothing\n")
    code, _, words = town.command("op", "policy", "apply", str(file), "-m", "two\nlines\x1b[31m")
    assert "\x1b" not in words
    if code == 0:
        assert "\x1b" not in town.ok("op", "policy", "log", "--limit", "1")
    else:
        assert code == 64
