"""I/O: the kernel is asked about real loopback connections: whose is the client's end, who holds a port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge import ports, sock_diag
from bridge.ports import holder_of, local_user_of

Ends = tuple[str, int, str, int]
LookUp = Callable[[str, int, str, int], int | None]
NOBODY = 65534


@pytest.fixture(params=["sock_diag", "proc"])
def look_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> LookUp:
    """`local_user_of` by each of its two ways alone."""
    if request.param == "proc":
        monkeypatch.setattr(sock_diag, "owner_of", lambda own, other: None)
        return local_user_of
    monkeypatch.setattr(ports, "_owner_in_proc", lambda own, other: None)
    return local_user_of


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.97.0.9", 0))
        listening.listen()
        listening.settimeout(10)
        yield listening


def accepted(listener: socket.socket) -> tuple[socket.socket, Ends]:
    stream, peer = listener.accept()
    return stream, (peer[0], peer[1], *stream.getsockname())


def test_our_own_connection_is_ours(listener: socket.socket, look_up: LookUp) -> None:
    with socket.create_connection(listener.getsockname()):
        stream, ends = accepted(listener)
        with stream:
            assert look_up(*ends) == os.getuid()


def test_a_connection_made_by_an_ipv6_socket_is_found(listener: socket.socket, look_up: LookUp) -> None:
    try:
        client = socket.socket(socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with client:
        host, port = listener.getsockname()
        client.connect((f"::ffff:{host}", port))
        stream, ends = accepted(listener)
        with stream:
            assert look_up(*ends) == os.getuid()


def test_a_client_that_half_closed_is_still_known(listener: socket.socket, look_up: LookUp) -> None:
    with socket.create_connection(listener.getsockname()) as client:
        client.shutdown(socket.SHUT_WR)
        stream, ends = accepted(listener)
        with stream:
            assert look_up(*ends) == os.getuid()


def test_a_client_that_is_gone_is_nobody_and_never_root(listener: socket.socket, look_up: LookUp) -> None:
    socket.create_connection(listener.getsockname()).close()
    stream, ends = accepted(listener)
    with stream:
        assert look_up(*ends) is None
    assert look_up(*ends) is None


def test_a_listener_on_the_clients_address_is_not_the_client(listener: socket.socket, look_up: LookUp) -> None:
    host, port = listener.getsockname()
    assert look_up(host, port, "127.0.0.1", 1) is None


CLIENT = """
import os, socket, sys
os.setuid({uid})
s = socket.socket()
s.connect(("{host}", {port}))
sys.stdin.read()
"""


@pytest.mark.root
def test_another_users_connection_is_that_users(listener: socket.socket, look_up: LookUp) -> None:
    host, port = listener.getsockname()
    script = CLIENT.format(uid=NOBODY, host=host, port=port)
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE) as client:
        stream, ends = accepted(listener)
        with stream:
            assert look_up(*ends) == NOBODY
        assert client.stdin is not None
        client.stdin.close()


def test_the_program_that_holds_a_port_is_named(listener: socket.socket) -> None:
    host, port = listener.getsockname()
    expected = f"{Path('/proc/self/comm').read_text().strip()} (pid {os.getpid()})"
    assert holder_of(host, port) == expected
    assert holder_of("127.97.0.10", port) is None, "another address of the same port is free"
    assert holder_of(host, port, "udp") is None


def test_a_listener_on_every_address_stands_in_the_way_of_ours() -> None:
    for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        if family == socket.AF_INET6 and not Path("/proc/net/tcp6").exists():
            continue
        with socket.socket(family) as listening:
            listening.bind((wildcard, 0))
            listening.listen()
            holder = holder_of("127.97.0.9", listening.getsockname()[1])
            assert holder is not None and f"(pid {os.getpid()})" in holder


def test_a_program_we_may_not_look_into_is_named_by_its_user(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "_program_with", lambda links: None)
    holder = holder_of(*listener.getsockname())
    assert holder is not None and holder.startswith("a program of user ")
