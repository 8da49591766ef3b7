"""The link between a gateway's ssh worker and an agentless host is cut: it is noticed within 20 s, streams end as cut
ones, and the host is back within 5 s of the link's return.

    gw 10.77.0.1 ──┐ lan ┌── box 10.77.0.2 (sshd)
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.support.debian_programs import Program
from tests.support.network import Network
from tests.support.ssh_worker import NotOpened, SshWorkerUnderTest
from tests.support.sshd import Sshd

pytestmark = pytest.mark.root


def test_f11_f41_a_cut_link_costs_its_streams_and_5_s_after_its_return(
    network: Network, openssh: Program, tmp_path: Path
) -> None:
    network.host("gw", lan="10.77.0.1/24")
    network.host("box", lan="10.77.0.2/24")
    with (
        Sshd(tmp_path / "box", 22, address="10.77.0.2", prefix=network.prefix("box")) as box,
        SshWorkerUnderTest(tmp_path / "w", network.prefix("gw")) as worker,
    ):
        worker.know(worker.hop(box, box.new_user_key()))
        worker.wait("box", "up")
        with network.inside("box"):
            listener = socket.create_server(("127.0.0.1", 5000))
        with listener, worker.ask("box", "127.0.0.1:5000") as stream, listener.accept()[0] as end:
            end.sendall(b"half an answer")
            assert stream.sock.recv(100) == b"half an answer"
            network.cut("box", "lan")
            began = time.monotonic()
            state = worker.wait("box", "down", timeout=25)
            noticed = time.monotonic() - began
            with pytest.raises(ConnectionResetError):
                stream.read_to_end()
        with pytest.raises(NotOpened, match="box is down"):
            worker.ask("box", "127.0.0.1:5000")
        took = []
        for pause in (1.0, 7.0):
            time.sleep(pause)
            began = time.monotonic()
            network.join("box", "lan")
            worker.wait("box", "up")
            took.append(time.monotonic() - began)
            if len(took) == 1:
                network.cut("box", "lan")
                worker.wait("box", "down", timeout=25)
        print(f"noticed after {noticed:.1f} s ({state.reason}), back {[f'{t:.1f} s' for t in took]} after the link")
        assert noticed < 20
        assert max(took) < 5
