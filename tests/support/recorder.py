"""I/O: a TCP proxy that keeps what crossed it: put between nodes, it shows what an eavesdropper would have."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType

_READ = 256 * 1024


@dataclass(eq=False)
class Recorded:
    """One connection: the bytes of the side that dialled, and those of the side that was dialled."""

    sent: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)


class Recorder:
    """Listens on a port of 127.0.0.1 and passes every connection on to `target`. One thread per direction."""

    def __init__(self, listen: tuple[str, int], target: tuple[str, int]) -> None:
        self.connections: list[Recorded] = []
        self._target = target
        self._listener = socket.create_server(listen, backlog=1024)
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, name="recorder", daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            while not self._closing.is_set():
                if not selector.select(0.1):
                    continue
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target, timeout=5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                recorded = Recorded()
                self.connections.append(recorded)
                self._sockets += [near, far]
                for source, sink, record in ((near, far, recorded.sent), (far, near, recorded.answered)):
                    threading.Thread(target=self._copy, args=(source, sink, record), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_READ):
                record += data
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def everything(self) -> bytes:
        """All bytes of all connections, in no particular order."""
        return b"\0".join(bytes(part) for one in self.connections for part in (one.sent, one.answered))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
