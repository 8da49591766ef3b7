"""I/O: a node's end of a tunnel in the hands of a test: real TLS, the real session, and a caller that keeps no promise.

    with TunnelClient(address, identity=home / "identity.pem", root=root_of(home)) as peer:
        peer.wait_up()
        stream = peer.open("@control")
        peer.wait(lambda: stream.refused)

Blocking, one attempt. Raw bytes may be sent as they are (`send_raw`), and a test may stop at any stage of the way up.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
from cryptography import x509

from agents.estate import load_config
from agents.knowledge.known import Known
from bridge.identity import certificates
from bridge.identity.contexts import mutual_client
from bridge.identity.issuer import Issuer, make_csr
from bridge.identity.verify import PeerIdentity, read_leaf
from bridge.tunnels.frames import Code, Hello, Open, Reason, encode_open
from bridge.tunnels.session import Session
from bridge.tunnels.session import Stream as TunnelStream
from inventory.endpoints import parse_endpoint
from inventory.names import SpiffeId

PATIENCE = 20.0
_READ = 64 * 1024
_LENGTH = struct.Struct(">I")


def root_of(home: Path) -> str:
    """The root certificate that a home trusts, PEM."""
    return Known.load(home, load_config(home).genesis).slice.genesis.root_certificate


def forged_identity(path: Path, issuer_pem: Path, spiffe: SpiffeId) -> Path:
    """An identity file for any name of the domain, signed by its real issuer: what a stolen issuer key could make."""
    key = certificates.generate_key()
    issued = Issuer.from_pem(issuer_pem.read_text()).issue(make_csr(key), spiffe, now=time.time())
    path.write_bytes(certificates.private_key_pem(key).encode() + issued.chain_pem.encode())
    return path


def key_of(identity: Path) -> PeerIdentity:
    """Name and key of an identity file."""
    chain = x509.load_pem_x509_certificates(identity.read_bytes())
    return read_leaf(certificates.to_der(chain[0]))


def _ready(sock: socket.socket, events: int, timeout: float) -> None:
    poll = select.poll()  # select() knows no descriptor above 1,023
    poll.register(sock, events)
    poll.poll(timeout * 1000)


class Stream:
    """What the far end said about one stream."""

    def __init__(self) -> None:
        self.inner: TunnelStream
        self.accepted = False
        self.refused: Reason | None = None
        self.reset: int | None = None
        self.ended = False
        self.data = bytearray()

    def on_accept(self) -> None:
        self.accepted = True

    def on_refuse(self, reason: Reason) -> None:
        self.refused = reason

    def on_data(self, data: memoryview) -> None:
        self.data += data

    def on_fin(self) -> None:
        self.ended = True

    def on_reset(self, code: int) -> None:
        self.reset = code

    def on_window(self) -> None:
        pass

    def message(self) -> dict[str, object] | None:
        """Takes the next control message off the front of what has arrived."""
        if len(self.data) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self.data)[0]
        if len(self.data) < end:
            return None
        message: dict[str, object] = msgspec.json.decode(self.data[_LENGTH.size : end])
        del self.data[:end]
        return message


class TunnelClient:
    """The side that dials. `closed` says how the tunnel ended, None while it stands."""

    def __init__(
        self, address: str, *, identity: Path, root: str, timeout: float = PATIENCE, key_log: Path | None = None
    ) -> None:
        endpoint = parse_endpoint(address)
        self.refused: Reason | None = None
        self.goaway: Reason | None = None
        self.closed: str | None = None
        self.session = Session(opener=True, handler=self)
        raw = socket.create_connection((endpoint.host, endpoint.port), timeout)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = mutual_client(identity, root)
        if key_log is not None:
            context.keylog_filename = str(key_log)
        try:
            self.tls: ssl.SSLSocket = context.wrap_socket(raw)
        except BaseException:
            raw.close()
            raise
        self.tls.setblocking(False)

    # --- the session's handler ------------------------------------------------------------------------------------

    def on_hello(self, hello: Hello) -> None:
        pass

    def on_accepted(self) -> None:
        pass

    def on_refused(self, reason: Reason) -> None:
        self.refused = reason

    def on_open(self, stream: TunnelStream, wish: Open) -> None:
        self.session.refuse(stream, Code.DENIED, "a test takes no streams")

    def on_goaway(self, reason: Reason) -> None:
        self.goaway = reason

    def on_crash(self, error: BaseException) -> None:
        raise error

    # --- bytes ----------------------------------------------------------------------------------------------------

    def wait(self, found: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Writes what is queued and acts on what comes until `found`, the end of the tunnel, or the end of patience."""
        until = time.monotonic() + timeout
        while True:
            self.flush()
            if self.closed is not None or found():
                return
            left = until - time.monotonic()
            assert left > 0, f"not within {timeout:g} s (refused {self.refused}, goaway {self.goaway})"
            if not self.tls.pending():
                _ready(self.tls, select.POLLIN, left)
            self._read()

    def flush(self) -> None:
        """Everything queued goes out; what arrives meanwhile is acted on."""
        session = self.session
        data = b"".join([*session.urgent, *session.out])
        session.urgent.clear()
        session.out.clear()
        self.send_raw(data)

    def send_raw(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self.closed is None:
            try:
                view = view[self.tls.send(view) :]
            except ssl.SSLWantWriteError:
                _ready(self.tls, select.POLLIN | select.POLLOUT, PATIENCE)
                self._read()
            except OSError as exc:
                self._read()
                self._end(str(exc))

    def _read(self) -> None:
        """Everything that is there now."""
        while self.closed is None:
            try:
                data = self.tls.recv(_READ)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except OSError as exc:
                self._end(str(exc))
                return
            if not data:
                self._end("the far end closed")
                return
            self._rest = self._rest + data
            used = self.session.receive(memoryview(self._rest), len(self._rest))
            self._rest = self._rest[used:]

    _rest = b""

    def _end(self, how: str) -> None:
        if self.closed is None:
            self.closed = how
            self.session.abandon(Code.ABORTED)

    # --- the tunnel -----------------------------------------------------------------------------------------------

    def wait_up(self, timeout: float = PATIENCE) -> bool:
        """HELLO and ACCEPT both ways; False when the far end refused or closed."""
        if not self.session.we_accepted:
            self.session.accept_tunnel()
        self.wait(lambda: self.session.is_up or self.refused, timeout)
        return self.session.is_up and self.closed is None

    def open(self, service: str, target: str = "", subject: str | None = None) -> Stream:
        """The OPEN goes out with the next `wait` or `flush`."""
        stream = Stream()
        wish = encode_open(Open(service=service, target=target, subject=subject))
        stream.inner = self.session.open(stream, wish)
        return stream

    def ask(self, service: str, target: str = "", subject: str | None = None) -> Stream:
        """Opens a stream and waits for its answer."""
        stream = self.open(service, target, subject)
        self.wait(lambda: stream.accepted or stream.refused or stream.reset is not None)
        return stream

    def say(self, stream: Stream, message: bytes) -> None:
        """One length-prefixed message of the control protocol, whatever is in it."""
        self.session.data(stream.inner, _LENGTH.pack(len(message)) + message)

    def hear(self, stream: Stream, timeout: float = PATIENCE) -> dict[str, object] | None:
        """The next control message; None when the stream or the tunnel ended."""
        heard: list[dict[str, object]] = []

        def found() -> bool:
            message = stream.message()
            if message is not None:
                heard.append(message)
            return bool(heard) or stream.ended or stream.reset is not None

        self.wait(found, timeout)
        return heard[0] if heard else None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.tls.close()

    def __enter__(self) -> TunnelClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
