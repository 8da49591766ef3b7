"""I/O: what is on a host without an agent is checked by its gateway: in words, once per target, and not too often."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import limits
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate
from tests.support.old_servers import Hercules
from tests.support.pair import admin, status
from tests.support.traffic import eventually

HOST = "lpar7"


@pytest.fixture
def gateway(estate: Estate) -> Estate:
    """One gateway, and behind it a host of which nothing is known but its address."""
    estate.init()
    estate.start_gateway()
    estate.ok(OPERATOR, "host", "add", HOST, "--reach", "tcp://127.0.0.1", "--via", "gw1", "--allow-loopback")
    return estate


def place(estate: Estate, service: str, port: int, check: str, *, at: int = 23) -> str:
    target = f"127.0.0.1:{port}"
    estate.service_add(service, "--check", check, host=HOST, target=target, port=at)
    return f"{service}/{HOST}/{target}"


def health(estate: Estate, instance: str) -> tuple[str, str]:
    found = admin(estate, OPERATOR, "health").get(instance, {})
    return found.get("state", "unknown"), found.get("reason", "")


def test_a_console_behind_a_gateway_is_more_than_an_open_port(
    gateway: Estate, tmp_path: Path, hercules: Program
) -> None:
    with Hercules(tmp_path, gateway.free_port()) as console:
        instance = place(gateway, "console", console.port, "tn3270;interval=300ms;fall=1")
        eventually(lambda: health(gateway, instance) == ("passing", "negotiated TN3270"), what="passing")
        said = {"id": instance, "state": "passing", "reason": "negotiated TN3270"}
        assert status(gateway, OPERATOR)["instances_behind"] == [said]
        place(gateway, "console", console.port, 'tn3270;screen="CICS";interval=300ms;timeout=500ms;fall=1')
        words = "negotiated TN3270, but no screen shows what is expected"
        eventually(lambda: health(gateway, instance)[1].startswith(words), what="in words")
        console.stop()
        eventually(lambda: health(gateway, instance)[1] == "connection refused", what="new words for the same verdict")
    place(gateway, "console", console.port, "tcp;interval=300ms;fall=1")
    gateway.ok(OPERATOR, "service", "remove", "console")
    eventually(lambda: instance not in admin(gateway, OPERATOR, "health"), what="forgotten with its service")


def test_a_program_is_no_check_of_a_host_without_an_agent(gateway: Estate) -> None:
    where = ["--host", HOST, "--target", "127.0.0.1:9", "--port", "23", "--check", "exec:/bin/true"]
    done = gateway.cli(OPERATOR, "service", "add", "console", *where)
    assert done.returncode == 64
    assert f"a program checks only its own host, and no agent runs on {HOST}" in done.stderr


class Counted:
    """A listener that notes when each connection came and how many were open at once."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.came: list[float] = []
        self.open = self.most_open = 0
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.came.append(time.monotonic())
                self.open += 1
                self.most_open = max(self.most_open, self.open)
            threading.Thread(target=self._greet, args=(sock,), daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        with sock:
            sock.sendall(b"220 ready\r\n")
            while sock.recv(100):
                pass
            with self._lock:
                self.open -= 1

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def counted() -> Iterator[Counted]:
    with Counted() as server:
        yield server


def test_the_same_target_under_several_services_is_probed_once(gateway: Estate, counted: Counted) -> None:
    services = [f"batch{number}" for number in range(4)]
    instances = [place(gateway, service, counted.port, "ftp;interval=1s") for service in services]
    for instance in instances:
        eventually(lambda i=instance: health(gateway, i)[0] == "passing", what=instance)  # type: ignore[misc]
    began, before = time.monotonic(), len(counted.came)
    eventually(lambda: len(counted.came) >= before + 5, what="five more")
    assert time.monotonic() - began > 5 * 0.9 * (1 - limits.CHECK_JITTER) - 1, "one each second and not four"
    assert counted.most_open == 1


def test_a_host_is_probed_within_its_budget(gateway: Estate, counted: Counted) -> None:
    """Six checks that would want twenty probes a second."""
    for number in range(6):
        place(gateway, f"batch{number}", counted.port, f"ftp;interval=300ms;rise={number + 1}")
    eventually(lambda: len(counted.came) >= 20, what="twenty probes", timeout=20)
    gaps = [later - earlier for earlier, later in itertools.pairwise(counted.came)]
    assert counted.most_open == 1
    assert sum(gaps) / len(gaps) > 1 / limits.CHECK_RATE_PER_HOST * 0.9
    assert not [w for w in status(gateway, OPERATOR)["warnings"] if w["code"] == "checks-late"], "not by ten seconds"
