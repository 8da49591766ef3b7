"""I/O: revoking a host closes its live streams on every connected node, as source and as destination; its key is gone
for ever (C16, F46), and the host comes back with a new one."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryptography import x509

from agents.estate import load_config
from bridge.identity.certificates import to_der
from bridge.tunnels.frames import Code
from tests.support.estate import OPERATOR, Estate
from tests.support.hostile_certificates import re_encoded
from tests.support.pair import SERVER, start_pair
from tests.support.traffic import Backend, echo, eventually, wait_cut
from tests.support.tunnel_client import TunnelClient, root_of

POLICY = '[[allow]]\nname = "all"\nfrom = ["host:vm2", "host:peer"]\nto = ["echo"]\n'
WITHIN = 1.0
ROOM = 2.0
"""Seconds for a loaded machine."""


def with_other_signature(identity: Path, path: Path) -> Path:
    """The same key and certificate with the other encoding of its signature, as CVE-2026-25793 did it."""
    pem = identity.read_text()
    leaf, *rest = x509.load_pem_x509_certificates(pem.encode())
    der = [re_encoded(leaf), *map(to_der, rest)]
    key = pem[: pem.index("-----BEGIN CERTIFICATE-----")]
    path.write_text(key + "".join(map(ssl.DER_cert_to_PEM_cert, der)))
    return path


class Revoked:
    """How long the command took, and how long before or after its end the stream was cut."""

    def __init__(self) -> None:
        self.began = self.done = time.monotonic()

    def says(self, what: str, seen: float) -> None:
        print(f"{what}: cut {seen - self.done:+.2f} s from the end of a command of {self.done - self.began:.2f} s")
        assert seen - self.done < WITHIN + ROOM


@contextlib.contextmanager
def revoking(estate: Estate, host: str) -> Iterator[Revoked]:
    """Revokes it while the block watches."""
    revoked = Revoked()

    def run() -> None:
        estate.ok(OPERATOR, "host", "revoke", host)
        revoked.done = time.monotonic()

    with ThreadPoolExecutor(1) as pool:
        command = pool.submit(run)
        yield revoked
        command.result()


def refusal(address: str, identity: Path, root: str) -> str:
    with TunnelClient(address, identity=identity, root=root) as tunnel:
        assert not tunnel.wait_up(), "it got a tunnel"
        assert tunnel.refused is not None, tunnel.closed
        return tunnel.refused.reason


def test_f46_c16_source_then_destination(estate: Estate, tmp_path: Path) -> None:
    with Backend("echo", echo) as backend:
        pair = start_pair(estate, {"echo": backend.target}, direct=True)
        estate.add_host("peer")
        estate.apply_policy(POLICY)
        listen = load_config(estate.home(SERVER)).listen
        assert listen is not None
        home = estate.home("peer")
        old, root = home / "identity.pem", root_of(home)

        with TunnelClient(listen, identity=old, root=root) as tunnel, pair.connect("echo") as other:
            assert tunnel.wait_up(), tunnel.refused
            live = tunnel.ask("echo", backend.target)
            assert live.accepted
            with revoking(estate, "peer") as revoked:
                tunnel.wait(lambda: False)  # to its end
                seen = time.monotonic()
            revoked.says("source", seen)
            assert tunnel.goaway is not None and tunnel.goaway.code == Code.REVOKED
            assert live.reset is not None
            other.sendall(b"?")
            assert other.recv(1) == b"?", "nobody else notices"

        twin = with_other_signature(old, tmp_path / "twin.pem")
        for node in (listen, estate.gateway_address):
            for identity in (old, twin):
                assert "revoked" in refusal(node, identity, root)

        token = estate.ok(OPERATOR, "host", "token", "peer")
        estate.ok("peer-again", "agent", "join", "-", "--addresses", estate.next_slice(), input=token)
        new = estate.home("peer-again") / "identity.pem"

        def is_back() -> bool:
            with TunnelClient(listen, identity=new, root=root) as tunnel:
                return tunnel.wait_up() and tunnel.ask("echo", backend.target).accepted

        eventually(is_back, what="the host with its new key")
        for node in (listen, estate.gateway_address):
            for identity in (old, twin):
                assert "revoked" in refusal(node, identity, root)

        with pair.connect("echo") as sock:
            sock.sendall(b"?")
            assert sock.recv(1) == b"?"
            with revoking(estate, SERVER) as revoked:
                wait_cut(sock)
                seen = time.monotonic()
            revoked.says("destination", seen)
