"""I/O: what the kernel says of a process (proc(5)): its sockets, its memory, the time it used. Linux only."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_TCP_LISTEN = 0x0A
_CHUNK = 8 * 1024 * 1024


@dataclass(frozen=True, order=True)
class Bound:
    """A socket that others can send to: a listening TCP socket, or a UDP socket that is bound and not connected."""

    protocol: str
    address: str
    port: int

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback


def listens_on(pid: int) -> set[Bound]:
    """Everything that a process listens on, by the inodes of its descriptors."""
    inodes = _socket_inodes(pid)
    found = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] not in inodes:
                continue
            remote_port = int(fields[2].rpartition(":")[2], 16)
            if int(fields[3], 16) == _TCP_LISTEN if protocol.startswith("tcp") else remote_port == 0:
                address, _, port = fields[1].rpartition(":")
                found.add(Bound(protocol, _address(address), int(port, 16)))
    return found


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            match = re.fullmatch(r"socket:\[(\d+)\]", str(fd.readlink()))
            if match:
                inodes.add(match[1])
    return inodes


def _address(hexadecimal: str) -> str:
    """/proc/net shows an address as 32-bit words in the machine's (little-endian) order."""
    raw = bytes.fromhex(hexadecimal)
    words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]
    return str(ipaddress.ip_address(b"".join(words)))


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory."""
    match = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match, f"process {pid} has no memory"
    return int(match[1]) * 1024


def why_memory_is_closed(pid: int) -> str | None:
    """The reason for which another process's memory cannot be read here, or None."""
    try:
        with Path(f"/proc/{pid}/mem").open("rb"):
            return None
    except OSError as exc:
        return f"/proc/{pid}/mem cannot be read: {exc.strerror}"


def memory_holds(pid: int, needle: bytes) -> list[str]:
    """The mappings of a process's memory in which `needle` is found."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, permissions, *rest = line.split(maxsplit=5)
            name = rest[-1] if len(rest) == 4 else "anonymous"
            if "r" not in permissions or name in ("[vvar]", "[vsyscall]", "[vdso]"):
                continue
            start, _, end = span.partition("-")
            if _mapping_holds(memory.fileno(), int(start, 16), int(end, 16), needle):
                found.append(name)
    return found


def _mapping_holds(memory: int, start: int, end: int, needle: bytes) -> bool:
    before = b""
    at = start
    while at < end:
        try:
            data = os.pread(memory, min(_CHUNK, end - at), at)
        except OSError:  # a page that is mapped and not there
            return False
        if not data:
            return False
        if needle in before + data:
            return True
        before = data[-len(needle) :]
        at += len(data)
    return False
