"""I/O: every kind of check, live: status says why it fails, and callers are not sent there."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually

FAST = ";interval=200ms;fall=1;timeout=1s"


def http_health(status: str):  # type: ignore[no-untyped-def]
    """Answers `?` with its name, as every backend, and an http check with `status`."""

    def handler(sock: socket.socket, name: str) -> None:
        request = sock.recv(4096)
        if request.startswith(b"GET /health "):
            sock.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        elif request:
            sock.sendall(f"{name}\n".encode())

    return handler


def mainframe(state: str):  # type: ignore[no-untyped-def]
    """Says `state` in EBCDIC to whoever says PING in EBCDIC; answers `?` in ASCII."""

    def handler(sock: socket.socket, name: str) -> None:
        request = sock.recv(4096)
        if request == "PING".encode("cp037"):
            sock.sendall(f"STATE {state}".encode("cp037"))
        elif request:
            sock.sendall(f"{name}\n".encode())

    return handler


def greeter(word: str):  # type: ignore[no-untyped-def]
    """Greets with `word`, answers `?`, and says goodbye to QUIT."""

    def handler(sock: socket.socket, name: str) -> None:
        sock.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            if sock.recv(4096) == b"?\n":
                sock.sendall(f"{name}\n".encode())
                return
        sock.sendall(f"{word} ready\r\n".encode())
        with contextlib.suppress(TimeoutError):
            if sock.recv(100) == b"QUIT\r\n":
                sock.sendall(b"221 bye\r\n")

    return handler


def state_of(town: Town, service: str, backend: Backend, host: str = "db2") -> tuple[str, str]:
    """Not known yet counts as unknown."""
    return town.health(host).get(f"{service}/{host}/{backend.target}", ("unknown", ""))


@pytest.mark.parametrize(
    ("check", "good", "bad", "why"),
    [
        ("http:/health", http_health("200 OK"), http_health("503 No"), "it answered 503"),
        ("http:/health?expect=204", http_health("204 None"), http_health("200 OK"), "it answered 200"),
        ("http:/health", http_health("200 OK"), http_health("301 Go\r\nLocation: http://169.254.169.254/"), None),
        ('send:"PING" expect:"STATE UP";ebcdic=cp037', mainframe("UP"), mainframe("DOWN"), "step 2: it closed, after"),
        ('expect:"220 " send:"QUIT\\r\\n" expect:"221"', greeter("220"), greeter("554"), "step 1: "),
    ],
    ids=["http", "http-expect", "http-redirect", "ebcdic", "send-expect"],
)
def test_an_instance_that_fails_its_check_is_not_chosen(town: Town, check: str, good, bad, why: str | None) -> None:  # type: ignore[no-untyped-def]
    service = town.name("checked")
    # A greeter that nobody asks anything waits a moment before it speaks.
    with Backend("good", good) as one, Backend("also good", good) as two, Backend("bad", bad) as other:
        for backend in (one, two, other):
            town.place(service, "db2", backend.target, "--check", check + FAST)
        town.policy(allow("checked", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        for backend, state in ((one, "passing"), (two, "passing"), (other, "failing" if why else "passing")):
            eventually(lambda b=backend, s=state: state_of(town, service, b)[0] == s, what=f"{backend.name} {state}")
        if why is None:
            return  # a redirect is an answer like any other, and is not followed (C38)
        assert state_of(town, service, other)[1].startswith(why)
        healthy = {"good", "also good"}
        eventually(lambda: {ask(*address) for _ in range(12)} == healthy, what="the caller has heard of it")
        assert {ask(*address) for _ in range(20)} == healthy


def test_a_tcp_check_fails_and_recovers_with_its_target(town: Town) -> None:
    service = town.name("plain")
    with Backend("one") as backend:
        town.place(service, "db1", backend.target, "--check", "tcp" + FAST)
        eventually(lambda: state_of(town, service, backend, "db1") == ("passing", ""), what="passing")
        backend.stop()
        eventually(lambda: state_of(town, service, backend, "db1") == ("failing", "connection refused"), what="failing")
        backend.start()
        eventually(lambda: state_of(town, service, backend, "db1") == ("passing", ""), what="passing again")


def test_an_exec_check_is_the_exit_code_of_a_program(town: Town, tmp_path: Path) -> None:
    service = town.name("plugin")
    flag = tmp_path / "broken"
    plugin = tmp_path / "check_it"
    plugin.write_text(f'#!/bin/sh\nif [ -e {flag} ]; then echo "CRITICAL: queue full"; exit 2; fi\necho OK\n')
    plugin.chmod(0o755)
    with Backend("one") as backend:
        town.place(service, "db1", backend.target, "--check", f"exec:{plugin} -w 5" + FAST)
        eventually(lambda: state_of(town, service, backend, "db1")[0] == "passing", what="passing")
        flag.touch()
        eventually(lambda: state_of(town, service, backend, "db1")[0] == "failing", what="failing")
        assert state_of(town, service, backend, "db1")[1] == "exit code 2: 'CRITICAL: queue full'"


def test_c38_a_check_may_name_only_its_own_target(town: Town) -> None:
    for foreign in ("169.254.169.254:80", "127.0.0.1:1", "[::ffff:127.0.0.1]:9000"):
        for check in (f"tcp:{foreign}", f"http://{foreign}/latest/meta-data"):
            where = ["--host", "db1", "--target", "127.0.0.1:9000", "--check", check]
            code, _, words = town.command("op", "service", "add", "ssrf", *where)
            assert code == 2
            assert "a check reaches only the instance's own target" in words or "mapped" in words
