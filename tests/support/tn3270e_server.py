"""I/O: a TN3270E server (RFC 2355) with a number of LUs, as a z/OS TCP/IP stack has it. The tests let a real client,
s3270, use it as well, so that it is no twin of our own reading of the RFC.
"""

from __future__ import annotations

import socket
import threading

from inventory.endpoints import Endpoint

_IAC, _SB, _SE, _EOR = b"\xff", b"\xff\xfa", b"\xff\xf0", b"\xff\xef"
_E = b"\x28"
_REQUEST, _IS, _REJECT = b"\x07", b"\x04", b"\x06\x05"
_DEVICE_TYPE, _FUNCTIONS = b"\x02", b"\x03"
DEVICE_IN_USE, INV_NAME, INV_DEVICE_TYPE = 1, 3, 4


class Tn3270eServer:
    """Serves until the `with` block is left.

    Args:
        lus: names of its LUs; each connection holds one until it ends.
        screen: what the first screen says, in cp037.
    """

    def __init__(self, lus: tuple[str, ...] = ("TCP00001",), screen: str = "WELCOME TO TSO") -> None:
        self.free = list(lus)
        self.known = lus
        self.screen = screen
        self.sessions = 0
        """Connections that went on to the functions, for which a host would begin a session."""
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])

    def __enter__(self) -> Tn3270eServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        held: list[str] = []
        try:
            with sock:
                sock.settimeout(20)
                self._converse(sock, held)
        except (OSError, EOFError):
            pass  # it left
        finally:
            with self._lock:
                self.free += held

    def _converse(self, sock: socket.socket, held: list[str]) -> None:
        sock.sendall(_IAC + b"\xfd" + _E)
        if _read(sock, 3) != _IAC + b"\xfb" + _E:
            return
        sock.sendall(_SB + _E + b"\x08" + _DEVICE_TYPE + _SE)
        asked = _suboption(sock)
        assert asked.startswith(_E + _DEVICE_TYPE + _REQUEST), asked
        device, _, name = asked[3:].partition(b"\x01")
        code = self._take(device.decode(), name.decode(), held)
        if code is not None:
            sock.sendall(_SB + _E + _DEVICE_TYPE + _REJECT + bytes((code,)) + _SE)
            sock.recv(100)
            return
        sock.sendall(_SB + _E + _DEVICE_TYPE + _IS + device + b"\x01" + held[0].encode() + _SE)
        wanted = _suboption(sock)
        assert wanted.startswith(_E + _FUNCTIONS + _REQUEST), wanted
        self.sessions += 1
        sock.sendall(_SB + _E + _FUNCTIONS + _IS + _SE)
        sock.sendall(bytes(5) + b"\xf5\xc2\x11\x40\x40" + self.screen.encode("cp037") + _EOR)
        while sock.recv(4096):
            pass

    def _take(self, device: str, name: str, held: list[str]) -> int | None:
        """An LU for this connection, or the code of the refusal."""
        with self._lock:
            if not device.startswith(("IBM-3278-", "IBM-3279-")):
                return INV_DEVICE_TYPE
            if name and name not in self.known:
                return INV_NAME
            if not self.free or (name and name not in self.free):
                return DEVICE_IN_USE
            held.append(self.free.pop(self.free.index(name) if name else 0))
        return None


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def _suboption(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(_SE):
        data += _read(sock, 1)
    assert data.startswith(_SB), data
    return data[2:-2]
