"""F41: OpenSSH from 9.8 on shuts an address out that connects and does not log in, or is refused too often. A gateway's
ssh worker earns nothing by reaching hosts, and does not lock itself out when a login fails."""

from __future__ import annotations

import socket
import time

import pytest

from tests.support.debian_programs import OPENSSH_10, NoProgram, find_tree
from tests.support.estate import Estate
from tests.support.ssh_worker import SshWorkerUnderTest
from tests.support.sshd import NewSshd, keygen

pytestmark = pytest.mark.root
PENALTIES = "PerSourcePenalties authfail:5s noauth:1s grace-exceeded:20s min:15s"


@pytest.fixture(autouse=True)
def tree() -> None:
    try:
        find_tree(OPENSSH_10)
    except NoProgram as why:
        pytest.skip(str(why))


def test_f41_no_penalty_is_earned_and_a_refused_login_locks_nobody_out(estate: Estate) -> None:
    box = NewSshd(estate.path / "box", estate.free_port(), options=[PENALTIES])
    with box, SshWorkerUnderTest(estate.path / "w") as worker:
        key, unknown = box.new_user_key(), estate.path / "unknown"
        keygen(unknown)
        worker.know(worker.hop(box, key))
        assert worker.wait("box", "up").kex == "mlkem768x25519-sha256"
        for _ in range(3):
            worker.kill()
            worker.start()
            worker.wait("box", "up")
        assert box.count("penalise|penalty") == 0, box.log()
        worker.know(worker.hop(box, key), worker.hop(box, unknown, name="refused"))
        assert worker.wait("refused", "down").next_try >= 15
        time.sleep(3.0)
        worker.kill()
        worker.start()  # from the same address, while the refused one waits
        worker.wait("box", "up")
        print(f"penalties: {box.count('penalise|penalty')}, refused connections: {box.count('drop connection')}")
        assert box.count("drop connection") == 0


def test_f41_an_address_that_is_punished_already_is_told_so_and_let_in_afterwards(estate: Estate) -> None:
    box = NewSshd(estate.path / "box", estate.free_port(), options=["PerSourcePenalties noauth:4s min:4s max:6s"])
    with box, SshWorkerUnderTest(estate.path / "w") as worker:
        for _ in range(3):  # somebody else at our address, who does what we do not
            with socket.create_connection((box.address, box.port)) as sock:
                sock.recv(100)
                sock.sendall(b"SSH-2.0-probe\r\n")
        time.sleep(0.5)
        began = time.monotonic()
        worker.know(worker.hop(box, box.new_user_key()))
        state = worker.wait("box", "down")
        print(state.reason, state.hint)
        assert state.cause == "refused" and "PerSourcePenalties" in state.hint
        worker.wait("box", "up", timeout=20)
        print(f"let in {time.monotonic() - began:.1f} s later")
