"""A host reached by tls://: its certificate names its address and comes from the signed CA; what is old is refused, or
allowed for that host; each end of stream is its own, and one without close_notify is a cut."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from agents.workers.ssh_messages import LastHop
from bridge.identity import certificates
from tests.support.hostile_certificates import mint
from tests.support.ssh_worker import NotOpened, SshWorkerUnderTest

Prepare = Callable[[ssl.SSLContext], None]


class Appliance:
    """A TLS server on loopback. What it does with a connection is its `serve`."""

    def __init__(self, directory: Path, *, address: str = "127.0.0.1", use_rsa: bool = False) -> None:
        ca_key, now = certificates.generate_key(), time.time()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "appliance CA")])
        times = {"issuer_key": ca_key, "issuer_name": name, "not_before": now - 60, "not_after": now + 3600}
        ca = mint(public_key=ca_key.public_key(), common_name="appliance CA", ca=True, usages=(), **times)
        key = rsa.generate_private_key(65537, 2048) if use_rsa else certificates.generate_key()
        names = [x509.IPAddress(ipaddress.ip_address(address))]
        made = mint(public_key=key.public_key(), common_name="appliance", names=names, **times)  # type: ignore[arg-type]
        self.ca = certificates.to_pem(ca)
        self.file = directory / "appliance.pem"
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.file.write_text(pem + certificates.to_pem(made))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self.listener.getsockname()[1]}"

    @contextlib.contextmanager
    def serving(
        self, serve: Callable[[ssl.SSLSocket], None], prepare: Prepare = lambda context: None
    ) -> Iterator[None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.file)
        prepare(context)

        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _address = self.listener.accept()
                    sock.settimeout(10)
                    with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
                        serve(tls)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            thread.join(10)


def echo(tls: ssl.SSLSocket) -> None:
    """To the client's end; then its own, said as TLS says it."""
    found = bytearray()
    while data := tls.recv(1 << 16):
        found += data
    tls.sendall(bytes(found))
    with contextlib.suppress(OSError):
        tls.unwrap()


def cut(tls: ssl.SSLSocket) -> None:
    tls.sendall(b"half an answer")
    socket.socket(fileno=tls.detach()).close()


def hop(appliance: Appliance, *allowed: str, until: float | None = None, ca: str | None = None) -> LastHop:
    ends = time.time() + 3600 if until is None else until
    return LastHop(
        host="box",
        scheme="tls",
        address="127.0.0.1",
        port=0,
        ca=ca or appliance.ca,
        allow_loopback=True,
        allowed=allowed,
        allowed_until=ends,
    )


def only(version: ssl.TLSVersion, ciphers: str = "") -> Prepare:
    def prepare(context: ssl.SSLContext) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        context.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")

    return prepare


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[SshWorkerUnderTest]:
    with SshWorkerUnderTest(tmp_path / "w") as worker:
        yield worker


def carried(worker: SshWorkerUnderTest, target: str) -> bytes:
    """What an echoing appliance sends back. Raises NotOpened."""
    with worker.ask("box", target) as stream:
        stream.sock.sendall(b"question" * 100_000)
        stream.sock.shutdown(socket.SHUT_WR)
        return stream.read_to_end()


def test_bytes_and_ends_go_both_ways(worker: SshWorkerUnderTest, tmp_path: Path) -> None:
    appliance = Appliance(tmp_path)
    with appliance.serving(echo):
        worker.know(hop(appliance))
        worker.wait("box", "up")
        assert carried(worker, appliance.target) == b"question" * 100_000
        assert carried(worker, appliance.target) == b"question" * 100_000


def test_an_end_without_close_notify_is_a_cut(worker: SshWorkerUnderTest, tmp_path: Path) -> None:
    appliance = Appliance(tmp_path)
    with appliance.serving(cut):
        worker.know(hop(appliance))
        worker.wait("box", "up")
        with worker.ask("box", appliance.target) as stream, pytest.raises(ConnectionResetError, match="after 14 bytes"):
            stream.read_to_end()


@pytest.mark.parametrize(
    ("version", "ciphers", "allowed"),
    [
        (ssl.TLSVersion.TLSv1_2, "", "tls-1.2"),
        (ssl.TLSVersion.TLSv1, "", "tls-1.0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA256", "tls-rsa"),
    ],
)
def test_what_is_old_needs_its_allowance_and_only_as_long_as_that_lasts(
    worker: SshWorkerUnderTest, tmp_path: Path, version: ssl.TLSVersion, ciphers: str, allowed: str
) -> None:
    appliance = Appliance(tmp_path, use_rsa=True)
    with appliance.serving(echo, only(version, ciphers)):
        for given in (hop(appliance), hop(appliance, allowed, until=time.time() - 1)):
            worker.know(given)
            worker.wait("box", "up")
            with pytest.raises(NotOpened, match=r"TLS 1.3 required.*--crypto"):
                worker.ask("box", appliance.target)
        worker.know(hop(appliance, allowed))
        worker.wait("box", "up")
        assert carried(worker, appliance.target) == b"question" * 100_000


def test_another_ca_another_name_and_no_tls_each_have_their_words(worker: SshWorkerUnderTest, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    appliance, other = Appliance(tmp_path / "one"), Appliance(tmp_path / "two")
    elsewhere = Appliance(tmp_path / "three", address="192.0.2.1")
    with appliance.serving(echo), elsewhere.serving(echo), other.listener:
        worker.know(hop(appliance, ca=other.ca))
        worker.wait("box", "up")
        with pytest.raises(NotOpened, match="unknown issuer"):
            worker.ask("box", appliance.target)
        worker.know(hop(elsewhere))
        worker.wait("box", "up")
        with pytest.raises(NotOpened, match=r"certificate is refused: .*IP address mismatch"):
            worker.ask("box", elsewhere.target)
        with pytest.raises(NotOpened, match="Connection refused"):
            worker.ask("box", "127.0.0.1:1")
        with pytest.raises(NotOpened, match="did not answer within 5 s"):
            worker.ask("box", other.target)


def test_c16_a_host_that_is_taken_away_during_the_handshake_is_not_reached(
    worker: SshWorkerUnderTest, tmp_path: Path
) -> None:
    appliance = Appliance(tmp_path)
    worker.know(hop(appliance))
    worker.wait("box", "up")
    with ThreadPoolExecutor(1) as elsewhere, appliance.listener:
        asked = elsewhere.submit(worker.ask, "box", appliance.target)
        sock, _address = appliance.listener.accept()
        worker.know()
        assert worker.run("box", "true").reason, "by now it knows"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(appliance.file)
        with (
            sock,
            context.wrap_socket(sock, server_side=True),
            pytest.raises(NotOpened, match="not reached in this way"),
        ):
            asked.result(10).close()
