"""Pure: what programs print about a box's TCP sockets, read: `ss -tan`, `netstat -an` of Linux, AIX and Solaris, z/OS's
`onetstat -a`, and `lsof -nP -iTCP`. Each reader takes any text, within bounds, and answers with the lines it knows.

    ss         ESTAB  0  0  10.0.0.1:22  10.0.0.2:50000  users:(("sshd",pid=1,fd=4))
    Linux      tcp    0  0  10.0.0.1:22  10.0.0.2:50000  ESTABLISHED  1/sshd
    AIX        tcp4   0  0  10.0.0.1.22  10.0.0.2.50000  ESTABLISHED       with -A, an address of the kernel's before it
    Solaris    10.0.0.1.22  10.0.0.2.50000  49640  0  49640  0  ESTABLISHED  [interface]
    z/OS       SSHD1  0000002A  10.0.0.1..22  10.0.0.2..50000  Establsh    or, where there is IPv6, in three lines:
               SSHD1  0000002A  Establsh
                 Local Socket:   10.0.0.1..22
                 Foreign Socket: 10.0.0.2..50000
    lsof       sshd  1  root  4u  IPv4  1234  0t0  TCP  10.0.0.1:22->10.0.0.2:50000  (ESTABLISHED)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from agents.discovery.sockets import Look, Socket, gathered, lines_of, make_socket, parse_state

_USERS = re.compile(r'users:\(\("([^"]*)"')
_CONNECTION = re.compile(r"[0-9A-F]{8}", re.ASCII)
"""Of z/OS: what it calls a connection by."""
_COUNTERS = 4
"""Of Solaris, between the ends and the state: two windows, two queues."""


def read_ss(text: str) -> Look:
    """`ss -tan`, `ss -tanp`, `ss -tlnp`."""
    return gathered((_ss_line(line) for line in lines_of(text)), text=text)


def _ss_line(line: str) -> Socket | None:
    fields = line.split()
    if fields and fields[0] == "tcp":
        fields = fields[1:]  # when it lists several kinds of socket
    if len(fields) < 5:
        return None
    users = _USERS.search(line)
    return make_socket(fields[0], fields[3], fields[4], users[1] if users else "")


def read_netstat(text: str) -> Look:
    """Whichever netstat printed it: one line says enough to tell."""
    return gathered(_netstat_lines(text), text=text)


def _netstat_lines(text: str) -> Iterator[Socket | None]:
    pending: list[str] = []
    """Of z/OS's three lines: the program, the state, the local socket."""
    for line in lines_of(text):
        fields = line.split()
        if len(fields) < 3:
            pending = []
        elif fields[1] == "Socket:":
            if fields[0] == "Local" and len(pending) == 2:
                pending.append(fields[2])
            elif fields[0] == "Foreign" and len(pending) == 3:
                yield make_socket(pending[1], pending[2], fields[2], pending[0])
                pending = []
        elif len(fields) == 3 and _CONNECTION.fullmatch(fields[1]):
            pending = [fields[0], fields[2]]
        else:
            pending = []
            yield _netstat_line(fields)


def _netstat_line(fields: list[str]) -> Socket | None:
    if len(fields) > 1 and not fields[0].startswith("tcp") and fields[1].startswith("tcp"):
        fields = fields[1:]  # AIX with -A
    if fields[0].startswith("tcp"):
        return _with_protocol(fields) if len(fields) >= 6 else None
    if len(fields) == 5 and _CONNECTION.fullmatch(fields[1]):
        return make_socket(fields[4], fields[2], fields[3], fields[0])
    return _solaris_line(fields)


def _with_protocol(fields: list[str]) -> Socket | None:
    """Linux, AIX. The program is Linux's: `1/sshd: root`, or `-` when it is nobody's or not for us to know."""
    pid, slash, program = fields[6].partition("/") if len(fields) > 6 else ("", "", "")
    return make_socket(fields[5], fields[3], fields[4], program.rstrip(":") if slash and pid.isdigit() else "")


def _solaris_line(fields: list[str]) -> Socket | None:
    """With `-u` there are a user, a process and a command between the ends and the counters."""
    at = next((n for n in range(len(fields) - 1, 1 + _COUNTERS, -1) if parse_state(fields[n]) is not None), None)
    if at is None or not all(field.isdigit() for field in fields[at - _COUNTERS : at]):
        return None
    between = fields[2 : at - _COUNTERS]
    return make_socket(fields[at], fields[0], fields[1], between[2] if len(between) > 2 else "")


def read_lsof(text: str) -> Look:
    """`lsof -nP -iTCP`."""
    return gathered((_lsof_line(line) for line in lines_of(text)), text=text)


def _lsof_line(line: str) -> Socket | None:
    fields = line.split()
    if "TCP" not in fields[:-2]:
        return None
    at = fields.index("TCP")
    own, _, other = fields[at + 1].partition("->")
    return make_socket(fields[at + 2].strip("()"), own, other, fields[0])


READERS: dict[str, Callable[[str], Look]] = {
    "ss": read_ss,
    "onetstat": read_netstat,
    "netstat": read_netstat,
    "lsof": read_lsof,
}
"""By the name of the program."""
