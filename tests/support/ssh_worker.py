"""I/O: a real ssh worker process for a test, which plays its supervisor and the data workers that ask it for channels.

with SshWorkerUnderTest(tmp_path) as worker:
    worker.know(worker.hop(box, key))
    worker.wait("box", "up")
    stream = worker.open("box", "127.0.0.1:50000")
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agents.workers import ssh_messages as m
from agents.workers.ssh_page import SuspectPage
from bridge.identity.seal_keys import GatewaySealKey, seal_credential
from bridge.identity.ssh_ca import SshCa
from tests.support.sshd import Sshd

ROOT = Path(__file__).parents[2]
PATIENCE = 15.0


class Stream:
    """The asker's end of a channel."""

    def __init__(self, sock: socket.socket, fate: socket.socket) -> None:
        self.sock = sock
        self._fate = fate
        sock.settimeout(PATIENCE)
        fate.setblocking(False)

    def read_to_end(self) -> bytes:
        """Raises ConnectionResetError when the end is none that the host made."""
        found = bytearray()
        while data := self.sock.recv(1 << 18):
            found += data
        if not self.ended_clean():
            raise ConnectionResetError(f"cut after {len(found)} bytes")
        return bytes(found)

    def ended_clean(self) -> bool:
        try:
            return self._fate.recv(1) == m.CLEAN_END
        except BlockingIOError:
            return False

    def alone(self) -> socket.socket:
        """The socket, for one who does not ask how it ended."""
        self._fate.close()
        return self.sock

    def close(self) -> None:
        self.sock.close()
        self._fate.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NotOpened(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class SshWorkerUnderTest:
    """Leaving the `with` block ends it.

    Args:
        prefix: words that make it run elsewhere: `ip netns exec ...`.
    """

    def __init__(self, directory: Path, prefix: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.home = directory
        self._prefix = list(prefix)
        self.seal_key = GatewaySealKey.generate()
        (directory / "seal.key").write_bytes(self.seal_key.to_bytes())
        self.ca = SshCa.generate()
        self.certifies = True
        self.states: dict[str, m.HopState] = {}
        self.history: list[m.HopState] = []
        self.notices: list[m.Notice] = []
        self.forwarded: list[tuple[m.Forwarded, Stream]] = []
        self.ran: dict[int, m.Ran] = {}
        self.public_key = ""
        self.ports_free = False
        self.beats = 0
        self.last_beat: m.Beat | None = None
        self.longest_silence = 0.0
        self._heard_at = 0.0
        self._changed = threading.Condition()
        self._sockets = tempfile.mkdtemp(prefix="mb")  # short: a socket's path has 107 bytes
        self.path = str(Path(self._sockets) / "s")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(1000)
        self.page = SuspectPage()
        self._hops: tuple[m.LastHop, ...] = ()
        self.process: subprocess.Popen[bytes] | None = None

    # --- its life -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        ours, theirs = socket.socketpair()
        self.process = subprocess.Popen(
            [*self._prefix, sys.executable, "-P", "-m", "agents.workers.ssh_worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self._sock = ours
        self.public_key = ""
        self.states.clear()
        self._heard_at = time.monotonic()
        begin = m.Begin(home=str(self.home), gateway="gw1")
        self._send(begin, [self._listener.fileno(), self.page.fd])
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()
        self.until(lambda: self.public_key != "", "it did not start")
        if self._hops:
            self.know(*self._hops)

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._sock.close()

    def retire(self) -> None:
        """Another worker takes the requests from here on."""
        self._sock.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        """As the kernel does for a supervisor that was killed."""
        self._sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> SshWorkerUnderTest:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._listener.close()
        self.page.close()
        for _message, sock in self.forwarded:
            sock.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)
            os.rmdir(self._sockets)

    def _send(self, message: Any, fds: list[int] | None = None) -> None:
        body = msgspec.msgpack.encode(message)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        data = struct.pack(">I", len(body)) + body
        sent = self._sock.sendmsg([data], rights)
        self._sock.sendall(data[sent:])

    def _listen(self, sock: socket.socket) -> None:
        buffer, fds = bytearray(), []
        decoder = msgspec.msgpack.Decoder(m.FromSshWorker)
        with contextlib.suppress(OSError):
            while True:
                data, came, _flags, _address = socket.recv_fds(sock, 1 << 18, 16)
                fds += came
                if not data:
                    return
                buffer += data
                while len(buffer) >= 4 and len(buffer) >= 4 + struct.unpack_from(">I", buffer)[0]:
                    end = 4 + struct.unpack_from(">I", buffer)[0]
                    message = decoder.decode(buffer[4:end])
                    del buffer[:end]
                    mine = [socket.socket(fileno=fds.pop(0)) for _ in range(message.fds)]
                    self._take(message, mine)

    def _take(self, message: m.FromSshWorker, socks: list[socket.socket]) -> None:
        with self._changed:
            now = time.monotonic()
            self.longest_silence = max(self.longest_silence, now - self._heard_at)
            self._heard_at = now
            match message:
                case m.Started():
                    self.public_key = message.public_key
                case m.Beat():
                    self.beats += 1
                    self.last_beat = message
                case m.HopStates():
                    self.states |= {state.host: state for state in message.hosts}
                    self.history += message.hosts
                case m.CertificateNeeded():
                    self._certify(message.principal)
                case m.Forwarded():
                    self.forwarded.append((message, Stream(*socks)))
                case m.Ran():
                    self.ran[message.id] = message
                case m.PortsFree():
                    self.ports_free = True
                case m.Notice():
                    self.notices.append(message)
            self._changed.notify_all()

    def _certify(self, principal: str) -> None:
        if not self.certifies:
            self._send(m.Certificate(principal=principal, reason="no"))
            return
        made = self.ca.certify(self.public_key, principal, gateway="gw1", now=time.time())
        self._send(m.Certificate(principal=principal, certificate=made.line, ends=made.ends))

    # --- what it is told ------------------------------------------------------------------------------------------

    def hop(self, box: Sshd, key: Path | None = None, *, name: str = "box", **more: Any) -> m.LastHop:
        """How it is to reach a server; without `key`, with a certificate."""
        sealed = seal_credential(key.read_bytes(), name, self.seal_key.public) if key is not None else None
        given: dict[str, Any] = {
            "host": name, "scheme": "ssh", "address": box.address, "port": box.port, "user": box.user,
            "host_keys": (" ".join(box.host_key_line.split()[:2]),), "credential": sealed,
        }  # fmt: skip
        return m.LastHop(**(given | more))

    def know(self, *hops: m.LastHop) -> None:
        with self._changed:
            for hop in set(self._hops) - set(hops):
                self.states.pop(hop.host, None)  # what is heard from here on is of what is said here
            self._hops = hops
            self._send(m.LastHops(hosts=hops))

    def run(self, host: str, *argv: str, timeout: float = 10.0) -> m.Ran:
        number = len(self.ran) + 1
        self._send(m.Run(id=number, host=host, argv=argv, timeout=timeout))
        self.until(lambda: number in self.ran, "the command did not end", timeout + PATIENCE)
        return self.ran[number]

    # --- what is waited for ---------------------------------------------------------------------------------------

    def until(self, found: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        with self._changed:
            assert self._changed.wait_for(found, timeout), f"{what}: {self.history[-3:]} {self.notices}"

    def wait(self, host: str, state: str, *, timeout: float = PATIENCE, after: int = 0) -> m.HopState:
        """The state that the host has now or gets, when it is `state`."""

        def found() -> bool:
            return host in self.states and self.states[host].state == state and len(self.history) > after

        self.until(found, f"{host} is not {state}", timeout)
        return self.states[host]

    def ask(self, host: str, target: str) -> Stream:
        """Raises NotOpened."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(self.path)
        sock.sendall(json.dumps({"host": host, "target": target}).encode() + b"\n")
        line, fds = b"", []
        while not line.endswith(b"\n"):
            ahead = sock.recv(4096, socket.MSG_PEEK)
            data, came, _flags, _address = socket.recv_fds(sock, ahead.find(b"\n") + 1 or len(ahead) or 1, 1)
            fds += came
            line += data
            if not data:
                break
        answer = json.loads(line or b'{"code": 0, "reason": "closed"}')
        if not answer.get("ok"):
            sock.close()
            raise NotOpened(answer["code"], answer["reason"])
        return Stream(sock, socket.socket(fileno=fds[0]))
