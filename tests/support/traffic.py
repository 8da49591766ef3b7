"""I/O: both ends of a test's traffic: servers inside the test that say their name, clients, and clients under load.

    with Backend("one") as one:
        ...place it as a service, find the service's address...
        assert ask(address, port) == "one"
        with Load(address, port) as load:
            load.wait_for(100)
        assert not load.failures

A request is a connection of its own: the client says `?`, the server answers with its name and closes. Threads, so
that a test that calls blocking commands meanwhile still serves. Nothing sleeps for luck: `eventually` asks until it is
so.
"""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds within which anything must have happened; a shared machine stalls for longer than one would think."""
QUESTION = b"?\n"
WORK = 0.3
"""Seconds for an answer of `work`."""
_POLL = 0.02
_SO_ATTACH_FILTER = 26
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
"""A socket filter (linux/filter.h) of one instruction: keep 0 bytes."""


class RequestFailed(Exception):
    """A client got no whole answer; the text says how it ended."""


def eventually(found: Callable[[], T], *, timeout: float = PATIENCE, what: str = "") -> T:
    """The first true answer of `found`, asked until it gives one. A RequestFailed or AssertionError in it is a no."""
    until = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            last = answer = found()
            if answer:
                return answer
        except (RequestFailed, AssertionError) as exc:
            last = exc
        if time.monotonic() > until:
            raise AssertionError(
                f"not within {timeout:g} s: {what or getattr(found, '__name__', 'it')}; last: {last!r}"
            )
        time.sleep(_POLL)


# --- servers ------------------------------------------------------------------------------------------------------

Handler = Callable[[socket.socket, str], None]


def answer(sock: socket.socket, name: str) -> None:
    """One line in, the name out, closed."""
    if _line(sock):
        sock.sendall(f"{name}\n".encode())


def work(sock: socket.socket, name: str) -> None:
    """As `answer`, after as long as a request that has something to do takes."""
    if _line(sock):
        time.sleep(WORK)
        sock.sendall(f"{name}\n".encode())


def hold(sock: socket.socket, name: str) -> None:
    """Says its name, then gives back every line, until the client ends."""
    sock.sendall(f"{name}\n".encode())
    while line := _line(sock):
        sock.sendall(line)


def echo(sock: socket.socket, name: str) -> None:
    """Gives back every byte; ends its side when the client has ended its own."""
    while data := sock.recv(256 * 1024):
        sock.sendall(data)


def _line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        data = sock.recv(4096)
        if not data:
            return b""
        line += data
    return line


class Backend:
    """A server that can be stopped as a good one is (what it took it answers), or killed; and started again."""

    def __init__(self, name: str, handler: Handler = answer, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.name = name
        self.host = host
        self.port = port
        self.served = 0
        """Connections that asked for something."""
        self._handler = handler
        self._sessions: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.start()

    @property
    def target(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name=f"backend {self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No new connections; those it has are answered to their end."""
        self._stop_listening()
        for thread in list(self._sessions.values()):
            thread.join(PATIENCE)

    def kill(self) -> None:
        """As a crash: every connection is reset."""
        self._stop_listening()
        with self._lock:
            sessions = list(self._sessions.items())
        for sock, _ in sessions:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.shutdown(socket.SHUT_RD)
        for _, thread in sessions:
            thread.join(PATIENCE)

    def _stop_listening(self) -> None:
        """Nothing new from here on, then what waits is taken, then the socket is closed: else the kernel would reset
        what came in between."""
        if self._thread is not None:
            program = struct.pack("HL", 1, ctypes.addressof(_DROP_ALL))
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            self._waker.close()
            self._thread.join(PATIENCE)
            self._thread = None
            self._wake.close()

    def _accept(self) -> None:
        with self._listener:
            while True:
                ready, _, _ = select.select([self._listener, self._wake], [], [])
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    while True:  # what the kernel has taken for us is ours to answer, the last ones included
                        sock, _ = self._listener.accept()
                        self._serve(sock)
                if self._wake in ready:
                    return

    def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        thread = threading.Thread(target=self._session, args=[sock], daemon=True)
        with self._lock:
            self._sessions[sock] = thread
        thread.start()

    def _session(self, sock: socket.socket) -> None:
        try:
            with sock, contextlib.suppress(OSError):
                if self._handler is not answer or sock.recv(1, socket.MSG_PEEK):  # a check asks nothing
                    self.served += 1
                self._handler(sock, self.name)
        finally:
            with self._lock:
                self._sessions.pop(sock, None)

    def __enter__(self) -> Backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


# --- clients ------------------------------------------------------------------------------------------------------


def ask(address: str, port: int, *, timeout: float = PATIENCE, source: str | None = None) -> str:
    """One request on a connection of its own; the name of who answered. Raises RequestFailed."""
    try:
        with socket.create_connection((address, port), timeout, (source, 0) if source else None) as sock:
            sock.sendall(QUESTION)
            said = b""
            while data := sock.recv(4096):
                said += data
    except OSError as exc:
        raise RequestFailed(f"{type(exc).__name__}: {exc}") from None
    if not said.endswith(b"\n"):
        raise RequestFailed(f"closed after {said!r}")
    return said.decode().strip()


def is_refused(address: str, port: int, *, timeout: float = PATIENCE) -> bool:
    """Whether a client that is let in gets not one byte before the end; False when it was served."""
    try:
        with socket.create_connection((address, port), timeout) as sock:
            sock.sendall(QUESTION)
            return not sock.recv(1)
    except ConnectionRefusedError:
        raise  # nobody listens: that is no answer at all
    except ConnectionError:
        return True


@contextlib.contextmanager
def session(address: str, port: int, *, timeout: float = PATIENCE) -> Iterator[socket.socket]:
    """A connection to a `hold` server that has been greeted."""
    with socket.create_connection((address, port), timeout) as sock:
        if not _line(sock):
            raise RequestFailed("no greeting")
        yield sock


def is_alive(sock: socket.socket) -> bool:
    """Whether a session with a `hold` server still goes both ways."""
    try:
        sock.sendall(b"still there\n")
        return _line(sock) == b"still there\n"
    except OSError:
        return False


def wait_cut(sock: socket.socket, timeout: float = PATIENCE) -> float:
    """Seconds until the connection ends by the other side."""
    began = time.monotonic()
    sock.settimeout(timeout)
    try:
        while sock.recv(4096):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        raise AssertionError(f"the connection still stands after {timeout:g} s") from None
    return time.monotonic() - began


class Load:
    """Clients that make requests until the block is left.

    Args:
        clients: threads; each makes one request after the other.
        rate: requests per second of all together, as far as the machine can; None: as fast as they are answered.
    """

    def __init__(self, address: str, port: int, *, clients: int = 4, rate: float | None = None) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.failed_from: list[float] = []
        """When each of the failed requests began (time.monotonic)."""
        self.slowest = 0.0
        """Seconds that the longest of all took, however it ended."""
        self._place = (address, port)
        self._interval = clients / rate if rate else 0.0
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]

    @property
    def total(self) -> int:
        return sum(self.answers.values())

    def _client(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                name, failure = ask(*self._place), ""
            except RequestFailed as exc:
                name, failure = "", str(exc)
            with self._changed:
                self.slowest = max(self.slowest, time.monotonic() - began)
                if failure:
                    self.failures.append(failure)
                    self.failed_from.append(began)
                else:
                    self.answers[name] += 1
                self._changed.notify_all()
            due = max(due + self._interval, time.monotonic() - 1.0)
            self._stop.wait(max(0.0, due - time.monotonic()))

    def wait_for(self, count: int, *, of: str | None = None, timeout: float = 30.0) -> None:
        """Waits for so many more answers, of one instance or of any."""

        def so_far() -> int:
            return self.answers[of] if of is not None else self.total

        with self._changed:
            wanted = so_far() + count
            done = self._changed.wait_for(lambda: so_far() >= wanted, timeout)
        assert done, f"{count} answers of {of or 'anyone'} did not come: {self.answers}, failures {self.failures[:3]}"

    def stop(self) -> None:
        """No more requests; those under way are answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
