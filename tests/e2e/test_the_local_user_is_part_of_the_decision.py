"""I/O: a rule with `user` asks who the connecting process belongs to; the agent finds out, the client says nothing."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys

import pytest

from tests.support.town import Town, allow, deny
from tests.support.traffic import Backend, ask, eventually, is_refused

ME = pwd.getpwuid(os.geteuid()).pw_name
NOBODY = "nobody"
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as sock:
    try:
        sock.sendall(b"?\\n")
        sys.stdout.write(sock.recv(100).decode())
    except ConnectionError:
        pass
"""


def ask_as(user: str, address: tuple[str, int]) -> str:
    """The answer that a process of another user gets; empty when it is closed without one."""
    entry = pwd.getpwnam(user)
    ids = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    argv = ["setpriv", *ids, sys.executable, "-c", CLIENT, address[0], str(address[1])]
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()


def test_only_the_user_of_the_rule_gets_through(town: Town) -> None:
    mine, theirs = town.name("mine"), town.name("theirs")
    with Backend("db1") as backend:
        for service in (mine, theirs):
            town.place(service, "db1", backend.target)
        town.policy(
            allow("for me", '"host:app"', f'"{mine}"', f'user = ["{ME}"]')
            + allow("for them", '"host:app"', f'"{theirs}"', 'user = ["someone-else"]')
        )
        to_mine, to_theirs = town.address("app", mine), town.address("app", theirs)
        assert eventually(lambda: ask(*to_mine)) == "db1"
        assert is_refused(*to_theirs)
        assert town.flow("app", mine, "ok")["user"] == ME
        refused = town.flow("app", theirs, "refused")
        assert refused["user"] == ME
        assert "it is for someone-else" in refused["reason"]
        assert not town.allowed("host:app", mine)
        assert town.allowed("host:app", mine, "--user", ME)
        assert not town.allowed("host:app", theirs, "--user", ME)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a client as another user")
def test_the_same_address_tells_users_apart(town: Town) -> None:
    service = town.name("batch")
    with Backend("db2") as backend:
        town.place(service, "db2", backend.target)
        town.policy(allow("batch only", '"host:app"', f'"{service}"', f'user = ["{NOBODY}"]'))
        address = town.address("app", service)
        assert eventually(lambda: ask_as(NOBODY, address)) == "db2"
        assert is_refused(*address)
        assert ask_as(NOBODY, address) == "db2"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start a client as another user")
def test_a_deny_for_one_user_leaves_the_others_alone(town: Town) -> None:
    service = town.name("cards")
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(
            allow("all", '"host:app"', f'"{service}"')
            + deny("not nobody", '"host:app"', f'"{service}"', f'user = ["{NOBODY}"]')
        )
        address = town.address("app", service)
        assert eventually(lambda: ask(*address)) == "db1"
        assert ask_as(NOBODY, address) == ""
        assert town.flow("app", service, "refused")["rule"] == "not nobody"


def test_dial_is_of_the_user_who_runs_it(town: Town) -> None:
    mine, theirs = town.name("mine"), town.name("theirs")
    with Backend("db1") as backend:
        for service in (mine, theirs):
            town.place(service, "db1", backend.target)
        town.policy(
            allow("for me", '"host:app"', f'"{mine}"', f'user = ["{ME}"]')
            + allow("for them", '"host:app"', f'"{theirs}"', 'user = ["someone-else"]')
        )
        town.address("app", theirs)
        done = town.estate.cli("app", "dial", mine, input="?\n")
        assert (done.returncode, done.stdout) == (0, "db1\n"), done.stderr
        done = town.estate.cli("app", "dial", theirs, input="?\n")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"the user is '{ME}'" in done.stderr
