"""I/O: what may be wrong with a machine of `machines.py`, and taken back again: disks, clocks, ports, Pythons.

with taken_port(machines, "vm1", "127.96.0.1", 5300):
    ...
fill(vm2, "/opt"); ...; mend(vm2, "/opt")
shift_clock(vm3, 30 * DAY); ...; set_clock_right(vm3)
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.machines import Machine, Machines

DAY = 86_400

_CLOCK = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
extern long syscall(long, ...);
int clock_gettime(clockid_t which, struct timespec *now)
{
    long code = syscall(SYS_clock_gettime, which, now);
    if (code == 0 && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += AHEAD;
    return code;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    long code = syscall(SYS_gettimeofday, now, zone);
    now->tv_sec += AHEAD;
    return code;
}
time_t time(time_t *where)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
"""
_OLD = """import sys
from collections import namedtuple
sys.version_info = namedtuple("version_info", "major minor micro releaselevel serial")(3, 5, 3, "final", 0)
"""


def fill(machine: Machine, path: str, size: str = "64k") -> None:
    """From now on there is a disk at `path` that has no room for more than `size`."""
    machine.run("mkdir", "-p", path)
    machine.run("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", path)


def make_read_only(machine: Machine, path: str) -> None:
    machine.run("mount", "--bind", path, path)
    machine.run("mount", "-o", "remount,bind,ro", path)


def mend(machine: Machine, path: str) -> None:
    """After `fill` and `make_read_only`."""
    machine.run("umount", path)


@contextlib.contextmanager
def taken_port(machines: Machines, name: str, address: str, port: int) -> Iterator[None]:
    """Another program listens there, for TCP and for UDP."""
    with contextlib.ExitStack() as stack:
        with machines.network.inside(name):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                taker = stack.enter_context(socket.socket(socket.AF_INET, kind))
                taker.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    taker.listen()
        yield


def shift_clock(machine: Machine, ahead: int) -> None:
    """Every program that starts from now on reads a clock that is so many seconds ahead. (The kernel has one wall clock
    for all machines; these read it through a library of ours.)"""
    library = machine.root / "usr/lib/clock.so"
    compile_ = ["cc", "-shared", "-fPIC", "-nostdlib", "-O1", f"-DAHEAD=({ahead}L)", "-x", "c", "-", "-o", str(library)]
    subprocess.run(compile_, input=_CLOCK, text=True, check=True, timeout=60)
    (machine.root / "etc/ld.so.preload").write_text("/usr/lib/clock.so\n")


def set_clock_right(machine: Machine) -> None:
    (machine.root / "etc/ld.so.preload").unlink()
    (machine.root / "usr/lib/clock.so").unlink()


def age_python(upper: Path, version: str) -> None:
    """In a layer: the Python of the system is too old for Ansible, and says so to whoever asks."""
    place = upper / f"etc/python{version}"
    place.mkdir(parents=True)
    (place / "sitecustomize.py").write_text(_OLD)


def remove_python(machine: Machine) -> None:
    machine.run("sh", "-c", "rm -rf /usr/bin/python* /usr/lib/python3*")
