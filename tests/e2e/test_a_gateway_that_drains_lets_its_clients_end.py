"""I/O: a gateway that ends lets the streams of its clients end first, those with a certificate to their last byte; and
takes no new ones."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.test_a_client_that_knows_nothing_of_us_is_known_by_its_address import (
    LPAR7,
    RequestFailed,
    ask_from,
    connect,
)
from tests.support.client_certificates import make
from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import Backend, eventually, hold
from tests.support.tunnel_client import root_of

RULES = '[[allow]]\nname = "clients"\nfrom = ["client:**"]\nto = ["*"]\n'
BULK = 3_000_000


def send_much(sock: socket.socket, name: str) -> None:
    """On a line: much more than is buffered on the way, and the end."""
    if sock.recv(2) == b"?\n":
        sock.sendall(b"x" * BULK)


def test_streams_go_on_until_they_end_and_no_new_ones_begin(estate: Estate, tmp_path: Path) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.start_agent("vm1")
    pos = make(tmp_path, "pos")
    for name, how in (("lpar7", ("--source", LPAR7)), ("pos", ("--certificate", str(pos.pem)))):
        estate.ok(OPERATOR, "client", "add", name, "--via", "gw1", *how)
    estate.apply_policy(RULES)
    with Backend("held", hold) as held, Backend("much", send_much) as much:
        places = {}
        for service, backend, flags in (("held", held, ()), ("much", much, ("--tls",))):
            estate.service_add(service, host="vm1", target=backend.target, port=80)
            places[service] = ("127.0.0.1", port := estate.free_port())
            estate.ok(OPERATOR, "service", "publish", service, "--via", "gw1", "--listen", f"127.0.0.1:{port}", *flags)
        assert eventually(lambda: ask_from(places["held"])) == "held"
        context = pos.context(root_of(estate.home("vm1")))
        with (
            connect(places["held"]) as stream,
            context.wrap_socket(connect(places["much"]), suppress_ragged_eofs=False) as slow,
        ):
            assert stream.recv(100) == b"held\n"
            slow.sendall(b"?\n")
            got = len(slow.recv(1000))
            assert got, "it is on its way, and nobody reads the rest yet"
            gateway = estate.nodes[OPERATOR]
            gateway.signal(signal.SIGTERM)
            eventually(lambda: not takes(places["held"]), what="no new streams")
            stream.sendall(b"still there\n")
            assert stream.recv(100) == b"still there\n"
            stream.shutdown(socket.SHUT_WR)
            assert stream.recv(100) == b""
            while data := slow.recv(65536):
                got += len(data)
            assert got == BULK
        assert gateway.wait(20) == 0


def takes(place: tuple[str, int]) -> bool:
    try:
        return bool(ask_from(place))
    except RequestFailed:
        return False


def test_a_client_of_a_host_that_drains_is_refused_and_the_record_says_why(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.start_agent("vm1")
    estate.ok(OPERATOR, "client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)
    estate.apply_policy(RULES)
    with Backend("one") as one:
        estate.service_add("one", host="vm1", target=one.target, port=80)
        place = ("127.0.0.1", port := estate.free_port())
        estate.ok(OPERATOR, "service", "publish", "one", "--via", "gw1", "--listen", f"127.0.0.1:{port}")
        assert eventually(lambda: ask_from(place)) == "one"
        estate.ok(OPERATOR, "host", "drain", "vm1", "--reason", "update")
        with pytest.raises(RequestFailed):
            ask_from(place)
        eventually(lambda: "is draining: update" in estate.ok(OPERATOR, "flows"), what="the record says why")
        estate.ok(OPERATOR, "host", "resume", "vm1")
        assert eventually(lambda: ask_from(place)) == "one"


def test_new_workers_take_over_a_published_port_and_old_streams_go_on(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.start_agent("vm1")
    estate.ok(OPERATOR, "client", "add", "lpar7", "--via", "gw1", "--source", LPAR7)
    estate.apply_policy(RULES)
    with Backend("held", hold) as held:
        estate.service_add("held", host="vm1", target=held.target, port=80)
        place = ("127.0.0.1", port := estate.free_port())
        estate.ok(OPERATOR, "service", "publish", "held", "--via", "gw1", "--listen", f"127.0.0.1:{port}")
        assert eventually(lambda: ask_from(place)) == "held"
        with connect(place) as stream:
            assert stream.recv(100) == b"held\n"
            estate.nodes[OPERATOR].signal(signal.SIGHUP)
            eventually(lambda: "done, with new workers" in estate.ok(OPERATOR, "status"), timeout=30)
            stream.sendall(b"still there\n")
            assert stream.recv(100) == b"still there\n"
            assert eventually(lambda: ask_from(place)) == "held"
