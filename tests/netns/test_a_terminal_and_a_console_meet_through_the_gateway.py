"""I/O: IBM's terminals and consoles through the bridge, with real ones: `s3270` completes a session with Hercules, and
an FTP client with a server on its control connection, from an agent host to a box without an agent, and from a box and
a client without one to an agent host."""

from __future__ import annotations

import ftplib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.behind import AT_CLIENT, AT_GATEWAY, CLIENT, Behind
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate
from tests.support.network import Network
from tests.support.old_servers import Hercules, OldServer, Vsftpd
from tests.support.traffic import eventually

pytestmark = pytest.mark.root

SESSION_TIMEOUT = 30.0
ANYONE = '[[allow]]\nname = "terminals"\nfrom = ["host:vm1", "host:aix1", "client:lpar7"]\nto = ["*"]\n'


@pytest.fixture(scope="module")
def behind(openssh: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with Network() as network, Estate(tmp_path_factory.mktemp("behind")) as estate, Behind(network, estate) as made:
        made.add_box("aix1")
        made.town.ok(OPERATOR, "client", "add", CLIENT, "--via", "gw1", "--source", f"{AT_CLIENT}/32")
        made.town.policy(ANYONE)
        yield made


def towards(behind: Behind, service: str, server: OldServer) -> tuple[str, tuple[str, int]]:
    """A service on the box, called by a program on an agent host: where that is, and the address it connects to."""
    behind.town.place(service, "aix1", f"127.0.0.1:{server.port}")
    return "vm1", behind.town.address("vm1", service)


def from_a_client(behind: Behind, service: str, server: OldServer) -> tuple[str, tuple[str, int]]:
    """A service on an agent host, called by a machine that connects to a published port of the gateway."""
    port = 20000 + server.port % 10000
    behind.town.place(service, "vm1", f"127.0.0.1:{server.port}")
    behind.town.ok(OPERATOR, "service", "publish", service, "--via", "gw1", "--listen", f"{AT_GATEWAY}:{port}")
    return CLIENT, (AT_GATEWAY, port)


def from_a_box(behind: Behind, service: str, server: OldServer) -> tuple[str, tuple[str, int]]:
    """A service on an agent host, called by a program on the box, on that box's own loopback."""
    port = 30000 + server.port % 10000
    behind.town.place(service, "vm1", f"127.0.0.1:{server.port}")
    behind.town.ok(OPERATOR, "service", "publish", service, "--on", "aix1", "--port", str(port))
    return "aix1", ("127.0.0.1", port)


WAYS = {"towards a box": towards, "from a client": from_a_client, "from a box": from_a_box}
SUBJECTS = {"towards a box": "host:vm1", "from a client": "client:lpar7", "from a box": "host:aix1"}
Way = Callable[[Behind, str, OldServer], tuple[str, tuple[str, int]]]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def server_host(way: str) -> str:
    return "aix1" if way == "towards a box" else "vm1"


def flows_of(behind: Behind, way: str, service: str) -> list[dict[str, Any]]:
    """Where they are decided: the caller's agent, or the gateway for whom it speaks."""
    return [f for f in behind.town.flows("vm1", service) if f["subject"] == SUBJECTS[way] and f["result"] != "refused"]


def terminal(behind: Behind, program: Program, at: str, address: tuple[str, int]) -> str:
    """What a real terminal says of a session: it connects, sees the screen, types, presses keys that the console
    is told of, and leaves."""
    words = (
        "Set(aidWait,false)", f"Connect({address[0]}:{address[1]})", "Wait(5,Output)", "Query(ConnectionState)",
        "Ascii()", "Clear()", "Reset()", 'String("hello from the bridge")', "Ascii(0,0,1,40)", "PF(3)",
        "Query(StatsTx)", "Disconnect()", "Query(ConnectionState)", "Quit()",
    )  # fmt: skip
    done = subprocess.run(
        [*behind.network.prefix(at), str(program.path)], input="\n".join((*words, "")), capture_output=True, text=True,
        errors="backslashreplace", timeout=SESSION_TIMEOUT, env={**os.environ, **program.env}, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_a_terminal_completes_sessions_with_a_console(
    behind: Behind, way: str, hercules: Program, s3270: Program, tmp_path: Path
) -> None:
    host, service = server_host(way), "console-" + way.replace(" ", "-")
    with ExitStack() as stack:
        with behind.network.inside(host):
            console = stack.enter_context(Hercules(tmp_path, behind.estate.free_port()))
        at, address = WAYS[way](behind, service, console)

        def session() -> str:
            said = terminal(behind, s3270, at, address)
            assert "Hercules Version" in said, said
            return said

        first = eventually(session, what="a first session", timeout=20)
        again = session()  # the console has one device: the session before has given it back
        for said in (first, again):
            assert "connected-3270" in said or "connected-tn3270e" in said, said
            assert "data: hello from the bridge" in said and "data: records 2 bytes" in said, said
            assert "not-connected" in said.rpartition("hello from the bridge")[2], said
    records = eventually(lambda: whole(flows_of(behind, way, service)), what="their flow records")
    print(f"{way}: {len(records)} sessions, {records[-1]['bytes_in']} bytes in, {records[-1]['bytes_out']} out")


def whole(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of both sessions, of which each carried a screen one way and keys the other; else none.
    How they ended is the console's affair: one that has not read the last key when the terminal leaves resets."""
    found = [record for record in records if record["bytes_out"] > 500 and record["bytes_in"] > 40]
    return found if len(found) >= 2 else []


def test_an_ftp_control_connection_is_used_from_greeting_to_goodbye(
    behind: Behind, way: str, vsftpd: Program, tmp_path: Path
) -> None:
    host, service = server_host(way), "batch-" + way.replace(" ", "-")
    with ExitStack() as stack:
        with behind.network.inside(host):
            server = Vsftpd(tmp_path, behind.estate.free_port(), run_as_launching_user="YES")
            stack.enter_context(server)
        at, address = WAYS[way](behind, service, server)
        with behind.network.inside(at):
            said = eventually(partial(ftp, address), what="a session", timeout=20)
        assert said[0].startswith("220") and said[-1].startswith("221"), said
        assert any(line.startswith("230") for line in said), said
    done = eventually(
        lambda: [f for f in flows_of(behind, way, service) if f["result"] == "ok"], what="its flow record"
    )
    assert done[0]["bytes_in"] > 0 and done[0]["bytes_out"] > 0


def ftp(address: tuple[str, int]) -> list[str]:
    """The server's answers, from the first to the last."""
    try:
        with ftplib.FTP() as client:
            said = [client.connect(*address, timeout=10), client.login()]
            said += [client.sendcmd(word) for word in ("SYST", "PWD", "NOOP")]
            return [*said, client.quit()]
    except (OSError, EOFError) as exc:
        raise AssertionError(str(exc)) from None
