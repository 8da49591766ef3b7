"""I/O: which program holds a port, and which local user is at the other end of a loopback connection.

Both are read from the kernel without privilege. `holder_of` is for error messages: best effort, never raises.
`local_user_of` is for decisions: None means that nobody can be named, and the caller must then refuse.
The lines of /proc/net/tcp and its kin (proc(5)) are read by `socket_rows`.
"""

from __future__ import annotations

import ipaddress
import pwd
from functools import cache
from pathlib import Path
from typing import Literal

from bridge import sock_diag
from bridge.sock_diag import End
from bridge.socket_rows import Row, hex_end, parse_row
from inventory.names import shown

Protocol = Literal["tcp", "udp"]

_PROC = Path("/proc")
_LISTENING = {"tcp": b"0A", "udp": b"07"}
"""TCP_LISTEN; for UDP the state of a socket without a peer."""
_MAPPED = b"\0" * 10 + b"\xff\xff"


@cache
def first_ephemeral_port() -> int:
    """No outgoing connection gets a smaller port by itself; 0 when the kernel does not say. Read once."""
    try:
        return int((_PROC / "sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def find_owner(table: bytes, own: bytes, other: bytes) -> int | None:
    """The uid of the connected socket between two ends, in the text of /proc/net/tcp or tcp6.

    The pair is searched as bytes, so that tens of thousands of lines cost one scan. A socket that no program holds any
    more is listed with uid 0 and inode 0: that is nobody, not root.
    """
    at = table.find(b" %s %s " % (own, other))
    if at < 0:
        return None
    start, end = table.rfind(b"\n", 0, at) + 1, table.find(b"\n", at)
    row = parse_row(table[start : end if end >= 0 else len(table)])
    if row is None or (row.own, row.other) != (own, other) or row.inode == 0:
        return None
    return row.uid


def find_listeners(table: bytes, own: set[bytes], state: bytes) -> list[Row]:
    """The sockets without a peer at one of the ends `own`, in the text of one of the four files."""
    rows = (parse_row(line) for line in table.splitlines() if any(end in line for end in own))
    return [row for row in rows if row is not None and row.own in own and row.state == state]


def _read(path: Path) -> bytes:
    """A file of /proc in one go; empty when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def local_user_of(peer_address: str, peer_port: int, local_address: str, local_port: int) -> int | None:
    """The uid that owns the client's end of an accepted loopback connection; None when it cannot be known.

    Asked by sock_diag and, where that is missing, of /proc. The client may have used an IPv6 socket for our IPv4
    address. Does not wait; the /proc way takes about 2 µs per TCP socket of the machine.

    Args:
        peer_address: the accepted socket's `getpeername()`, IPv4.
        local_address: its `getsockname()`.
    """
    try:
        own = End(ipaddress.IPv4Address(peer_address), peer_port)
        other = End(ipaddress.IPv4Address(local_address), local_port)
    except ValueError:
        return None
    if not (own.address.is_loopback and other.address.is_loopback):
        return None
    uid = sock_diag.owner_of(own, other)
    return uid if uid is not None else _owner_in_proc(own, other)


def _owner_in_proc(own: End, other: End) -> int | None:
    for name, prefix in (("tcp", b""), ("tcp6", _MAPPED)):
        ends = (hex_end(prefix + end.address.packed, end.port) for end in (own, other))
        uid = find_owner(_read(_PROC / "net" / name), *ends)
        if uid is not None:
            return uid
    return None


def holder_of(address: str, port: int, protocol: Protocol = "tcp") -> str | None:
    """Who stands in the way of a listener on `address`: `nginx (pid 123)`, or `a program of user www-data` when its
    process cannot be looked into, or None. Looks through every process, so it is for the error path only."""
    try:
        packed = ipaddress.ip_address(address).packed
    except ValueError:
        return None
    candidates = {packed, bytes(len(packed))}
    if len(packed) == 4:
        candidates |= {_MAPPED + packed, bytes(16)}
    ends = {hex_end(candidate, port) for candidate in candidates}
    rows: list[Row] = []
    for name in (protocol, f"{protocol}6"):
        rows += find_listeners(_read(_PROC / "net" / name), ends, _LISTENING[protocol])
    if not rows:
        return None
    return _program_with({f"socket:[{row.inode}]" for row in rows}) or f"a program of user {_user(rows[0].uid)}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _program_with(links: set[str]) -> str | None:
    for process in sorted(_entries(_PROC)):
        if process.name.isdigit() and any(_target(file) in links for file in _entries(process / "fd")):
            name = _read(process / "comm").decode("utf-8", "replace").rstrip("\n")
            return f"{shown(name)[1:-1]} (pid {process.name})"
    return None


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing when it is another user's or its process has ended."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _target(link: Path) -> str | None:
    try:
        return str(link.readlink())
    except OSError:
        return None
