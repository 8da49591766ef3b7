"""I/O: what can be wrong on the way to a box is said by the command, by `status`, by `host show` and in the gateway's
log, each in words of its own, and nothing that a box says acts on the operator's terminal (H33)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.behind import AT_GATEWAY, BOXES, Behind
from tests.support.debian_programs import Program
from tests.support.estate import OPERATOR, Estate
from tests.support.network import GATEWAY_PORT, Network
from tests.support.pair import status
from tests.support.sshd import keygen
from tests.support.traffic import eventually

pytestmark = pytest.mark.root

NASTY = "\x1b[2J\x1b]0;owned\x07 members only \u202e"
SHOWN = r"\x1b[2J\x1b]0;owned\x07 members only"


@pytest.fixture(scope="module")
def behind(openssh: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with (
        Network() as network,
        Estate(tmp_path_factory.mktemp("behind")) as estate,
        Behind(network, estate, agents=()) as made,
    ):
        banner = estate.path / "banner"
        banner.write_text(NASTY + "\n")
        for name, options in (("aix1", [f"Banner {banner}"]), ("aix2", [])):
            box = made.start_sshd(name, *options)
            box.authorize("cert-authority " + made.town.ok(OPERATOR, "gateway", "ssh-ca").strip())
        yield made


@pytest.fixture(scope="module")
def shouting(behind: Behind) -> Iterator[None]:
    """Something on the port of an sshd that says what no sshd says, and hangs up."""
    with behind.network.inside("old1"):
        listener = socket.create_server((BOXES["old1"], 22))

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.sendall(NASTY.encode() + b"\r\n")

    threading.Thread(target=serve, daemon=True).start()
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def reason(behind: Behind, host: str) -> str:
    """Why the gateway does not reach it, once it knows."""
    return str(eventually(lambda: behind.reached(host).get("reason"), what=f"why {host} is down", timeout=20))


def test_h33_each_wrong_way_is_told_apart(behind: Behind, shouting: None) -> None:
    stranger = behind.estate.path / "stranger"
    keygen(stranger)
    key = ("--key", str(stranger))
    cases: dict[str, tuple[str, str, tuple[str, ...], str]] = {
        "wrong-key": ("aix1", f"ssh://root@{BOXES['aix1']}", key, "does not let user root in with our key"),
        "wrong-user": ("aix1", f"ssh://nosuchuser@{BOXES['aix1']}", (), "does not let user nosuchuser in"),
        "not-ssh": ("aix1", f"ssh://root@{BOXES['old1']}", (), "is no ssh server that we can speak to"),
        "closed": ("aix1", f"ssh://root@{BOXES['old1']}:2222", (), f"nothing listens at {BOXES['old1']}:2222"),
        "nobody-there": ("aix1", "ssh://root@10.77.1.99", (), "10.77.1.99:22 cannot be reached: No route to host"),
        "another": ("aix1", f"ssh://root@{BOXES['aix2']}", (), "shows another host key than the one that was signed"),
    }
    for name, (signed, url, options, _) in cases.items():
        file = behind.estate.path / f"{name}.pub"
        file.write_text(behind.boxes[signed].host_key_line + "\n")
        reach = ("--reach", url, "--via", "gw1", "--host-key", str(file))
        behind.town.ok(OPERATOR, "host", "add", name, *reach, *options)
    said = {name: reason(behind, name) for name in cases}
    for name, (_, _, _, words) in cases.items():
        print(f"{name}: {said[name]}")
        assert words in said[name]
        behind.wait(name, "away")
        shown = behind.town.ok(OPERATOR, "host", "show", name)
        assert words in shown, shown
    assert len(set(said.values())) == len(cases)
    assert SHOWN in said["wrong-key"] and SHOWN in said["not-ssh"]
    warned = "\n".join(str(w["text"]) for w in status(behind.estate, OPERATOR)["warnings"])
    assert all(words in warned for _, _, _, words in cases.values()), warned
    told = behind.town.ok(OPERATOR, "status") + behind.town.ok(OPERATOR, "host", "list")
    told += "".join(behind.town.ok(OPERATOR, "host", "show", name) for name in cases)
    told += behind.estate.nodes[OPERATOR].stderr.tail(10_000)
    assert not [c for c in told if c != "\n" and not c.isprintable()], "nothing acts on a terminal"
    for name in cases:
        behind.town.ok(OPERATOR, "host", "remove", name)


def test_h33_a_changed_host_key_is_not_followed_until_an_operator_signs_it(behind: Behind) -> None:
    box = behind.boxes["aix2"]
    behind.add("aix2")
    behind.wait("aix2", "online")
    before = behind.reached("aix2")["host_key"]
    box.kill()
    box.change_host_key()
    box.start()
    logins = box.count("Accepted")
    why = eventually(
        lambda: text if "shows another host key" in (text := reason(behind, "aix2")) else "",
        what="the change",
        timeout=20,
    )
    assert before.split()[-1] in why, "which key was signed"
    assert box.count("Accepted") == logins, "nobody logs in to a stranger"
    behind.add("aix2")
    behind.wait("aix2", "online")
    assert behind.reached("aix2")["host_key"] != before


def test_h33_a_way_back_to_the_gateway_is_refused_by_the_command(behind: Behind) -> None:
    file = behind.estate.path / "any.pub"
    file.write_text(behind.boxes["aix1"].host_key_line + "\n")
    cases = {
        f"ssh://root@{AT_GATEWAY}:{GATEWAY_PORT}": (64, f"{AT_GATEWAY}:{GATEWAY_PORT} is gateway gw1 itself"),
        f"tcp://{AT_GATEWAY}": (64, f"{AT_GATEWAY} is gateway gw1 itself"),
        "tcp://127.0.0.1": (64, "127.0.0.1 is the gateway itself"),
        "tcp://[::1]": (64, "::1 is the gateway itself"),
        "tcp://169.254.169.254": (2, "169.254.169.254 cannot be a target: metadata services have such addresses"),
        "tcp://0.0.0.0": (2, "0.0.0.0 cannot be a target: no single host has it"),
    }
    for url, (expected, words) in cases.items():
        key = ("--host-key", str(file)) if url.startswith("ssh") else ()
        code, out, said = behind.town.command(OPERATOR, "host", "add", "loop", "--reach", url, "--via", "gw1", *key)
        print(f"{url}: {said.strip()}")
        assert (code, out) == (expected, ""), (url, code, said)
        assert words in said, url
    assert "loop" not in behind.town.ok(OPERATOR, "host", "list")
