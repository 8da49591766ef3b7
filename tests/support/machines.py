"""I/O: whole machines for a test: a Debian of its own with systemd, sshd and a network of its own, reached by ssh only.

    with Machines(tmp_path) as machines:
        vm1 = machines.boot("vm1", "bookworm", "10.79.0.11")
        box = machines.boot("box", "bookworm", "10.79.0.13", init=SSHD_ONLY)     # no systemd
        vm1.run("systemctl", "is-active", "ssh")
        machines.controller("ansible-playbook", ...)                              # from a host beside them

All are on one segment that leads nowhere else: neither they nor the controller reach anything beyond it. A machine
writes into a layer over a root that all share (`debian_roots`); the layer is a directory of the test's. Needs root.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.support.debian_programs import NoProgram, find_program
from tests.support.debian_roots import find_root
from tests.support.network import Network
from tests.support.sshd import keygen
from tests.support.traffic import eventually

CONTROLLER = "op"
CONTROLLER_ADDRESS = "10.79.0.1"
BOOT_TIMEOUT = 60.0
COMMAND_TIMEOUT = 60.0
END_TIMEOUT = 20.0

SYSTEMD = ("--boot",)
SSHD_ONLY = ("--as-pid2", "/bin/sh", "-c", "mkdir -p /run/sshd && exec /usr/sbin/sshd -D")
"""A machine that was never told of systemd: what starts its services are scripts in /etc/init.d."""

# Each machine's systemd gets a part of the hierarchies for itself: otherwise all would manage the same groups.
_START = """
set -e
for group in $3; do
    mkdir -p "$group"
    echo $$ > "$group/cgroup.procs"
done
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
shift 3
exec "$@"
"""
_INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")
_INOTIFY_LEAST = 1024
"""Of one user: every machine's systemd and services have a dozen, and with the usual 128 the ninth does not boot."""
_HIERARCHIES = ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup")
# What a running system writes by itself, and what is no file of it.
_NOT_THE_MACHINES = (
    *("proc", "sys", "dev", "run", "tmp", "var/tmp", "root/.ansible"),
    *("var/log/journal", "var/log/wtmp", "var/log/btmp", "var/log/lastlog", "var/lib/systemd/timers"),
)

Prepare = Callable[[Path], None]
"""Gets the layer, in which files may be put before the machine starts, and the root below it."""


@dataclass(frozen=True)
class Entry:
    """What is to be seen of a file."""

    kind: int
    mode: int
    owner: tuple[int, int]
    content: str


class Machine:
    """One that runs, or did."""

    def __init__(
        self, name: str, address: str, layer: Path, command: list[str], env: Mapping[str, str], groups: list[Path]
    ) -> None:
        self.name = name
        self.address = address
        self._layer = layer
        self._command = command
        self._env = env
        self._groups = groups
        self._leader = 0

    # --- on and off -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when its sshd answers and, with systemd, everything was started that is to start."""
        with (self._layer / "console").open("ab") as console:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._env},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        self._leader = eventually(self._find_leader, timeout=BOOT_TIMEOUT, what=f"{self.name}: {self._console()}")
        if "--boot" in self._command:
            eventually(self._has_booted, timeout=BOOT_TIMEOUT, what=f"{self.name} boots")

    def stop(self) -> None:
        """As if its plug were pulled."""
        if self._leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
            self._leader = 0
            self._process.wait(END_TIMEOUT)
            for group in self._groups:
                _remove_group(group)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _find_leader(self) -> int:
        if self._process.poll() is not None:
            raise AssertionError(f"{self.name} ended: {self._console()}")
        # nspawn has one child, pid 1 of the machine, and for a moment another that sets things up.
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                status = Path(f"/proc/{child}/status").read_text()
                if "\nNSpid:\t" in status and status.split("\nNSpid:\t")[1].split("\n")[0].split()[-1] == "1":
                    return int(child)
        return 0

    def _has_booted(self) -> bool:
        return self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded")

    def _console(self) -> str:
        return (self._layer / "console").read_text(errors="replace")[-2000:]

    # --- in it ----------------------------------------------------------------------------------------------------

    @property
    def inside(self) -> tuple[str, ...]:
        """What makes a command run in the machine, as root. Not by ssh: also when the machine is out of order."""
        return ("nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-r", "-w")

    def run(self, *command: str, check: bool = True, stdin: str = "", timeout: float = COMMAND_TIMEOUT) -> str:
        """What it prints, errors among it.

        Raises:
            AssertionError: `check`, and it ended with another code than 0.
        """
        done = subprocess.run(
            [*self.inside, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", *command],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, f"{self.name}: {' '.join(command)}: {done.returncode}: {done.stdout}"
        return done.stdout

    @property
    def root(self) -> Path:
        """Its file system, seen from here."""
        return Path(f"/proc/{self._leader}/root")

    def log(self, unit: str) -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit)

    def files(self) -> dict[str, Entry]:
        """Everything in its file system but what a running system writes by itself."""
        return dict(_entries(self.root))


def _entries(root: Path) -> Iterator[tuple[str, Entry]]:
    left_out = {str(root / path) for path in _NOT_THE_MACHINES}
    for directory, folders, names in os.walk(root):
        folders[:] = [name for name in folders if os.path.join(directory, name) not in left_out]
        for name in (*folders, *names):
            path = Path(directory, name)
            if str(path) in left_out:
                continue
            seen = path.lstat()
            content = ""
            if stat.S_ISLNK(seen.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(seen.st_mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            what = Entry(stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode), (seen.st_uid, seen.st_gid), content)
            yield str(path.relative_to(root)), what


def _hierarchies() -> list[Path]:
    """The version 2 one, and of a machine with both versions systemd's own."""
    found = [Path(path) for path in _HIERARCHIES if Path(path, "cgroup.procs").exists()]
    return found[:2]


def _remove_group(group: Path) -> None:
    for directory, _, _ in os.walk(group, topdown=False):
        # What has just ended may still be in it; it is empty then, and in nobody's way.
        with contextlib.suppress(OSError):
            os.rmdir(directory)


@functools.cache
def _check_nspawn(root: Path) -> None:
    """Raises NoProgram: this machine starts no others."""
    nspawn = find_program("systemd-nspawn")
    command = [nspawn.path, "-q", "--register=no", "--keep-unit", "--volatile=overlay", "-D", root, "/bin/true"]
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, **nspawn.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BOOT_TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise NoProgram(f"systemd-nspawn starts nothing here: {done.stdout.strip()[-200:]}")


class Machines:
    """Those of a test, and the controller beside them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._nspawn = find_program("systemd-nspawn")
        if int(_INOTIFY.read_text()) < _INOTIFY_LEAST:
            with contextlib.suppress(OSError):
                _INOTIFY.write_text(str(_INOTIFY_LEAST))
        self._network = Network()
        self._network.host(CONTROLLER, lan=f"{CONTROLLER_ADDRESS}/24")
        self.key = place / "login"
        self._public = keygen(self.key)
        self.all: dict[str, Machine] = {}

    def boot(
        self, name: str, release: str, address: str, *, init: tuple[str, ...] = SYSTEMD, prepare: Prepare | None = None
    ) -> Machine:
        """Raises NoProgram: there is no such Debian here, or machines cannot be started."""
        below = find_root(release)
        _check_nspawn(below)
        layer = self._place / name
        for folder in ("upper/root/.ssh", "upper/etc", "work", "root"):
            layer.joinpath(folder).mkdir(parents=True)
        upper = layer / "upper"
        shutil.copymode(below / "root", upper / "root")
        (upper / "root/.ssh").chmod(0o700)
        (upper / "root/.ssh/authorized_keys").write_text(self._public + "\n")
        (upper / "etc/hostname").write_text(f"{name}\n")
        (upper / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
        if prepare is not None:
            prepare(upper)
        self._network.host(name, lan=f"{address}/24")
        nspawn = [
            str(self._nspawn.path),
            *("-q", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
            f"--network-namespace-path=/run/netns/{self._network.space(name)}",
            *("-M", name, "-D", str(layer / "root"), *init),
        ]
        groups = [above / self._network.space(name) for above in _hierarchies()]
        start = ["sh", "-c", _START, "sh", str(below), str(layer), " ".join(map(str, groups))]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "-m", "--propagation", "private", *start, *nspawn]
        machine = Machine(name, address, layer, command, self._nspawn.env, groups)
        self.all[name] = machine
        machine.start()
        eventually(lambda: self._has_sshd(address), timeout=BOOT_TIMEOUT, what=f"{name}: sshd answers")
        return machine

    def _has_sshd(self, address: str) -> bool:
        with (
            self._network.inside(CONTROLLER),
            contextlib.suppress(OSError),
            socket.create_connection((address, 22), 2) as connection,
        ):
            return connection.recv(4) == b"SSH-"
        return False

    @property
    def network(self) -> Network:
        return self._network

    @property
    def controller(self) -> tuple[str, ...]:
        """What makes a command run on the controller. It sees this machine's files."""
        return ("nsenter", f"--net=/run/netns/{self._network.space(CONTROLLER)}")

    def __enter__(self) -> Machines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for machine in self.all.values():
            machine.stop()
        self._network.__exit__(kind, error, trace)
