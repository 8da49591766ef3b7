"""I/O: whatever comes to a gateway's port and is no honest client is named, told and closed; honest ones pass."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from agents.control import messages as m
from bridge.errors import explain_tls_error
from bridge.identity.contexts import bootstrap_client
from bridge.tunnels.frames import FrameType, Hello, Open, frame, json_frame
from tests.support.estate import OPERATOR
from tests.support.gateway_port import Port, port_under_attack
from tests.support.pair import admin


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    with port_under_attack(tmp_path_factory.mktemp("port")) as port:
        yield port


def answer_to(port: Port, data: bytes) -> bytes:
    """Everything the gateway says until it closes; fails when it does not close at once."""
    with port.connect() as sock:
        sock.settimeout(5.0)
        answered = b""
        with contextlib.suppress(ConnectionError):
            sock.sendall(data)
            while more := sock.recv(4096):
                answered += more
    return answered


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: gw\r\n\r\n", "not a TLS 1.3 client"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "not a TLS 1.3 client"),
        (random.Random(1).randbytes(512), "not a TLS 1.3 client"),
        (b"MAIL FROM:<a@b>\r\n", "unknown preface"),
        (b"M" * 4096, "the preface is not a line"),
        (b"MBR1 " + b"A" * 40 + b"\n", "the ticket is not one of ours"),
        (b"MBR2 ticket\n", "unknown preface"),
        (b"MBE1\nGET / HTTP/1.1\r\n\r\n", "not a TLS 1.3 client"),
        (b"\x16\x03\x01\x00\x05hello", "TLS failed"),
    ],
    ids=[
        "http",
        "ssh",
        "random",
        "smtp",
        "endless preface",
        "ticket",
        "later ticket",
        "http in enrolment",
        "handshake",
    ],
)
def test_h01_what_is_not_tls_is_named_and_closed_at_once(port: Port, data: bytes, words: str) -> None:
    answers = []
    port.heard(words, lambda: answers.append(answer_to(port, data)))
    assert all(len(answer) <= 7 for answer in answers), "an alert at most"
    assert port.handshake() < 10


def test_h02_an_old_tls_client_is_told_the_version(port: Port) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    errors = []

    def dial() -> None:
        with port.connect() as raw, pytest.raises(ssl.SSLError) as caught:
            context.wrap_socket(raw)
        errors.append(caught.value)

    port.heard("TLS 1.3 required", dial)
    assert explain_tls_error(errors[0]) == "TLS 1.3 required: the peer offers only an older version"


@pytest.mark.parametrize("name", [None, "gw1", "nobody.example", "t.internal."])
def test_h03_c01_a_client_without_certificate_is_told_so_whatever_name_it_asks_for(
    port: Port, name: str | None
) -> None:
    def dial() -> None:
        context = bootstrap_client()
        with port.connect() as raw, context.wrap_socket(raw, server_hostname=name) as tls:
            with pytest.raises(ssl.SSLError) as caught:
                tls.recv(1)  # the handshake itself looks good to the client
            assert explain_tls_error(caught.value) == "client certificate required"

    port.heard("client certificate required", dial)


# --- honest clients on a bad network (C01) ------------------------------------------------------------------------


def one_by_one(first: bytes) -> list[bytes]:
    return [first[at : at + 1] for at in range(len(first))]


def as_three_records(first: bytes) -> list[bytes]:
    """The same handshake message in three TLS records (RFC 8446, 5.1)."""
    head, body = first[:3], first[5:]
    third = len(body) // 3
    parts = [body[:third], body[third : 2 * third], body[2 * third :]]
    return [head + len(part).to_bytes(2, "big") + part for part in parts]


@contextlib.contextmanager
def through(split: Callable[[bytes], list[bytes]], target: tuple[str, int]) -> Iterator[str]:
    """A proxy for one connection that passes its ClientHello on in pieces."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def carry() -> None:
            near, _ = listener.accept()
            with near, socket.create_connection(target) as far:
                far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for piece in split(near.recv(65536)):
                    far.sendall(piece)
                    time.sleep(0.001)  # else the kernel may put them together again
                copy_both_ways(near, far)

        thread = threading.Thread(target=carry, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(10)


def copy_both_ways(a: socket.socket, b: socket.socket) -> None:
    while True:
        for sock in select.select([a, b], [], [])[0]:
            data = sock.recv(65536)
            if not data:
                return
            (b if sock is a else a).sendall(data)


@pytest.mark.parametrize("split", [one_by_one, as_three_records])
def test_c01_a_client_hello_in_pieces_is_as_good_as_a_whole_one(
    port: Port, split: Callable[[bytes], list[bytes]]
) -> None:
    with through(split, port.place) as address, port.tunnel(address=address) as tunnel:
        assert tunnel.wait_up(), (tunnel.refused, tunnel.closed)


# --- plaintext that looks right (C25) -----------------------------------------------------------------------------


def test_c25_a_valid_request_in_clear_and_a_close_reach_no_parser(port: Port) -> None:
    """What CVE-2023-40217 let through: bytes sent before the handshake, then the end of the connection."""
    hello = json_frame(0, FrameType.HELLO, Hello()) + frame(0, FrameType.ACCEPT)
    hello += json_frame(1, FrameType.OPEN, Open(service="@control"))
    control = msgspec.json.encode(m.Hello(version="1", epoch=1, number=0))
    request = b'{"type":"genesis"}'
    stderr = port.estate.nodes[OPERATOR].stderr
    before = stderr.count
    for data in (
        hello,
        b"\x16" + hello,
        b"\x16\x03\x03" + len(hello).to_bytes(2, "big") + hello,
        b"MBE1\n" + len(request).to_bytes(4, "big") + request,
        b"MBE1\n\x16\x03\x03" + len(request).to_bytes(2, "big") + request,
        b"\x17\x03\x03" + len(control).to_bytes(2, "big") + control,
    ):
        with port.connect() as sock:
            sock.sendall(data)
        with port.connect() as sock:
            sock.sendall(data)
            with contextlib.suppress(OSError):  # it may be closed by now
                sock.shutdown(socket.SHUT_WR)
            sock.settimeout(5.0)
            with contextlib.suppress(ConnectionError):
                assert len(sock.recv(4096)) <= 7, "an alert at most"
    port.heard("unknown preface", lambda: answer_to(port, b"MARK\n"))  # everything before it has been dealt with
    said = "".join(stderr.tail(stderr.count - before))
    assert "not a TLS 1.3 client" in said or "TLS failed" in said
    for parser in ("protocol violation", "enrolment message", "control message", "HELLO", "host connected"):
        assert parser not in said, said
    assert set(admin(port.estate, OPERATOR, "hosts") or {}) == {"vm1", "vm2"}, "nobody else is connected"
