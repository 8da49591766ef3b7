"""I/O: what lies between a caller and a box is killed or cut, one after the other: the box is back within 5 s of the
cause's end, and meanwhile nobody gets a wrong answer: none from another than whom policy and drain allow, none of
another's request, none that is cut short and looks whole."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.behind import BOXES, Behind
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate
from tests.support.network import Network
from tests.support.traffic import Backend, eventually

pytestmark = pytest.mark.root

BOUND = 5.0
"""Seconds from the end of the cause to the first answer."""
PATIENCE = 1.0
"""Seconds that a caller waits for an answer; then it asks again."""
LINES = 1500
"""Lines of one answer: over 48 KiB, so that a cut comes in the middle of many."""
POLICY = """
[[allow]]
name = "shop"
from = ["host:vm1"]
to = ["shop", "only"]
"""


class Answering(Backend):
    """Gives back the question with its own name, many times. A check asks nothing."""

    def __init__(self, name: str, *, host: str = "127.0.0.1") -> None:
        self.asked = 0
        super().__init__(name, self._reply, host=host)

    def _reply(self, sock: socket.socket, name: str) -> None:
        asked = sock.makefile("rb").readline().decode().strip()
        if asked:
            self.asked += 1
            sock.sendall(f"{name} {asked}\n".encode() * LINES)


class Callers:
    """They ask until the block is left, each question with a number of its own."""

    def __init__(self, at: tuple[str, int], right: set[str], *, clients: int = 4) -> None:
        self.right = right
        self.answers: Counter[str] = Counter()
        self.answered_at: list[tuple[float, float]] = []
        """Of each question that was answered: when it was asked, and when the answer was whole."""
        self.failed: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._at = at
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=[n], daemon=True) for n in range(clients)]

    def _run(self, client: int) -> None:
        number = 0
        while not self._stop.wait(0.1):
            number += 1
            self._ask(f"{client}-{number}")

    def _ask(self, question: str) -> None:
        began, got = time.monotonic(), b""
        try:
            with socket.create_connection(self._at, PATIENCE) as sock:
                sock.sendall(f"{question}\n".encode())
                while data := sock.recv(1 << 16):
                    got += data
        except OSError as exc:
            with self._lock:
                self.failed[type(exc).__name__] += 1
                self._look_at_some(got, question)
            return
        with self._lock:
            if not got:
                self.failed["refused"] += 1
                return
            name = self._look_at_some(got, question)
            if got != f"{name} {question}\n".encode() * LINES:
                self.wrong.append(f"{question}: a whole answer of {len(got)} bytes ends with {got[-60:]!r}")
            self.answers[name] += 1
            self.answered_at.append((began, time.monotonic()))

    def _look_at_some(self, got: bytes, question: str) -> str:
        """Even what is cut short must be the right host's and of this question."""
        line = got.partition(b"\n")[0].decode(errors="replace")
        name = line.rpartition(" ")[0]
        if b"\n" in got and (name not in self.right or line != f"{name} {question}"):
            self.wrong.append(f"{question}: {line!r}")
        return name

    def first_after(self, moment: float) -> float | None:
        """When the first whole answer came to a question that was asked after a moment."""
        with self._lock:
            return min((came for asked, came in self.answered_at if asked >= moment), default=None)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)


def ssh_worker(estate: Estate) -> int:
    """The process that holds the gateway's ssh connections."""

    def found() -> int:
        for pid in estate.nodes[OPERATOR].children():
            if b"agents.workers.ssh_worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return 0

    return eventually(found, what="the ssh worker")


def kill_the_worker(behind: Behind) -> float:
    before = ssh_worker(behind.estate)
    os.kill(before, signal.SIGKILL)
    return time.monotonic()


def kill_the_sshd(behind: Behind) -> float:
    box = behind.boxes["aix1"]
    box.kill()
    time.sleep(3)
    box.start()
    return time.monotonic()


def cut_for(seconds: float) -> Callable[[Behind], float]:
    def cut(behind: Behind) -> float:
        behind.network.cut("aix1", "aix1")
        time.sleep(seconds)
        behind.network.join("aix1", "aix1")
        return time.monotonic()

    return cut


CAUSES: dict[str, Callable[[Behind], float]] = {
    "the ssh worker is killed": kill_the_worker,
    "the sshd is dead for 3 s": kill_the_sshd,
    "the link is cut for 2 s": cut_for(2),
    "the link is cut for 7 s": cut_for(7),
    "the link is cut for 20 s": cut_for(20),
}


@pytest.fixture(scope="module")
def behind(openssh: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with (
        Network() as network,
        Estate(tmp_path_factory.mktemp("behind")) as estate,
        Behind(network, estate, agents=("vm1", "vm2")) as made,
    ):
        made.add_box("aix1")
        made.add_port("old1")
        yield made


@pytest.fixture(scope="module")
def closed(behind: Behind) -> Iterator[list[Answering]]:
    """Servers that nobody may reach: one on a host that drains, one of a service without a rule."""
    with ExitStack() as stack:
        for host, name in (("aix1", "only on aix1"), ("aix1", "on aix1"), ("vm2", "on vm2")):
            with behind.network.inside(host):
                server = Answering(name)
            stack.enter_context(server)
            behind.town.place("only" if "only" in name else "shop", host, server.target)
        with behind.network.inside("old1"):
            drained = Answering("on old1", host=BOXES["old1"])
            stack.enter_context(drained)
        with behind.network.inside("aix1"):
            secret = Answering("secret")
            stack.enter_context(secret)
        behind.town.place("secret", "aix1", secret.target)
        behind.town.ok(OPERATOR, "host", "drain", "old1")
        behind.town.place("shop", "old1", drained.target)
        behind.town.policy(POLICY)
        yield [drained, secret]


@pytest.mark.parametrize("cause", CAUSES)
def test_f41_a_box_is_back_within_5_s_and_nobody_gets_a_wrong_answer(
    behind: Behind, closed: list[Answering], cause: str
) -> None:
    shop, only = (behind.town.address("vm1", service) for service in ("shop", "only"))
    behind.wait("aix1", "online")
    with behind.network.inside("vm1"):
        callers = Callers(shop, {"on aix1", "on vm2"}), Callers(only, {"only on aix1"})
    with ExitStack() as stack:
        with behind.network.inside("vm1"):
            for some in callers:
                stack.enter_context(some)
        eventually(lambda: len(callers[0].answers) == 2 and callers[1].answers, what="everybody answers", timeout=20)
        began = time.monotonic()
        ended = CAUSES[cause](behind)
        back = eventually(lambda: callers[1].first_after(ended), what="the box answers again", timeout=20)
        assert back is not None
        seen = callers[0].answers["on aix1"]
        eventually(lambda: callers[0].answers["on aix1"] > seen, what="and is balanced again", timeout=20)
        behind.wait("aix1", "online")
    took = back - ended
    for some in callers:
        during = [asked for asked, _ in some.answered_at if began <= asked < back]
        print(f"{cause}: {dict(some.answers)}, {len(during)} of them meanwhile; no answer: {dict(some.failed)}")
        assert not some.wrong, some.wrong[:3]
    print(f"{cause}: back {took:.2f} s after its end")
    assert [server.asked for server in closed] == [0, 0], "drained, and without a rule"
    assert took <= BOUND
