"""I/O: a real OpenSSH server for a test: its own configuration, host key and users' keys, on a port that is read back.

    with Sshd(tmp_path / "box", estate.free_port()) as box:
        box.url               ssh://root@127.0.0.1:PORT
        box.host_key_line     what goes into `--host-key`
        box.authorize(line)   a public key, or a `cert-authority` line

It runs as whoever runs the test. For root it is in a mount namespace of its own where the user `sshd` and /run/sshd
exist, so that the machine needs neither; it then lets any user of the machine in whose key it knows.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.debian_programs import OPENSSH_10, find_program, find_tree
from tests.support.processes import RunningProcess

ROOT = Path(__file__).parents[2]
START_TIMEOUT = 20.0
_AS_ROOT = """
set -e
mount --make-rprivate /
{ cat /etc/passwd; grep -q ^sshd: /etc/passwd || echo sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin; } > "$1/passwd"
mount --bind "$1/passwd" /etc/passwd
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 755 /run/sshd
shift
exec "$@"
"""

_IN_A_TREE = """
set -e
mount --make-rprivate /
mount --bind /dev "$1/dev"
mount -t proc proc "$1/proc"
mount --bind "$2" "$1/box"
exec chroot "$1" /usr/sbin/sshd -D -e -f /box/sshd_config
"""
_UNSHARED = ("unshare", "-m", "--propagation", "private", "sh", "-c")

OLD = (
    "KexAlgorithms diffie-hellman-group14-sha1",
    "HostKeyAlgorithms ssh-rsa",
    "Ciphers aes128-cbc",
    "MACs hmac-sha1",
    "PubkeyAcceptedAlgorithms +ssh-rsa",
)
"""An sshd of 2009, as far as today's can play it."""


def keygen(path: Path, kind: str = "ed25519", *more: str) -> str:
    """A key pair in `path` and `path`.pub; the public line."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path), *more], check=True, capture_output=True
    )
    return path.with_name(path.name + ".pub").read_text().strip()


def certify(ca: Path, public: Path, principals: str, *more: str) -> Path:
    """A certificate beside `public` (`X.pub` -> `X-cert.pub`), signed with the private key in `ca`."""
    command = ["ssh-keygen", "-q", "-s", str(ca), "-I", "test", "-n", principals, "-V", "-1m:+1h", *more, str(public)]
    subprocess.run(command, check=True, capture_output=True)
    return public.with_name(public.name.removesuffix(".pub") + "-cert.pub")


def descendants(pid: int) -> list[int]:
    """Children of a process, their children, and so on, as of now."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


class Sshd:
    """One server. Leaving the `with` block ends it.

    Args:
        options: lines of sshd_config that come first, so that they win: `MaxStartups 2`, `PermitOpen ...`.
        host_key: kind of its host key, as for `ssh-keygen -t`.
        prefix: words that make it run elsewhere: `ip netns exec ...`.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        *,
        address: str = "127.0.0.1",
        options: Sequence[str] = (),
        host_key: str = "ed25519",
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.address = address
        self.port = port
        self.user = getpass.getuser()
        self.options = list(options)
        self._prefix = list(prefix)
        self._starts = 0
        self.process: RunningProcess | None = None
        directory.mkdir(parents=True)
        directory.chmod(0o755)
        self.key_file = directory / "host_key"
        self.host_key_line = keygen(self.key_file, host_key)
        self.authorized = directory / "authorized_keys"
        self.authorized.touch()
        (directory / "logs").mkdir()

    @property
    def url(self) -> str:
        return f"ssh://{self.user}@{self.address}:{self.port}"

    def change_host_key(self, kind: str = "ed25519") -> str:
        """From its next start on; the new public line."""
        self.key_file.unlink()
        self.host_key_line = keygen(self.key_file, kind)
        return self.host_key_line

    def authorize(self, line: str) -> None:
        with self.authorized.open("a") as file:
            file.write(line.strip() + "\n")

    def new_user_key(self, name: str = "user_key", kind: str = "ed25519") -> Path:
        """A key pair that may log in; its private file."""
        path = self.directory / f"{name}-{len(list(self.directory.glob(f'{name}-*.pub')))}"
        self.authorize(keygen(path, kind))
        return path

    def _config(self) -> str:
        return "\n".join((
            *self.options,
            f"ListenAddress {self.address}:{self.port}",
            f"HostKey {self.key_file}",
            f"AuthorizedKeysFile {self.authorized}",
            f"PidFile {self.directory / 'sshd.pid'}",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "UsePAM no",
            "StrictModes no",  # the directory of a test belongs to whoever
            "LogLevel VERBOSE",
            "",
        ))  # fmt: skip

    def _command(self) -> list[str]:
        config = self.directory / "sshd_config"
        config.write_text(self._config())
        argv = [str(find_program("sshd").path), "-D", "-e", "-f", str(config)]
        return [*_UNSHARED, _AS_ROOT, "sh", str(self.directory), *argv] if os.geteuid() == 0 else argv

    def start(self) -> None:
        """Returns when it listens."""
        program = find_program("sshd")
        argv = self._command()
        self._starts += 1
        name = f"{self.directory.name}-{self._starts}"
        self.process = RunningProcess(
            name, [*self._prefix, *argv], logs=self.directory / "logs", cwd=self.directory,
            env={**os.environ, **program.env},
        )  # fmt: skip
        self.process.stderr.wait_for("Server listening on", START_TIMEOUT)

    def log(self) -> str:
        """What it said since it was started last."""
        assert self.process is not None
        return self.process.stderr.tail(100_000)

    def count(self, pattern: str) -> int:
        """Lines of the log that match."""
        return len(re.findall(pattern, self.log()))

    def kill(self) -> None:
        """As when its machine dies: the listener and every session, at once."""
        assert self.process is not None
        for pid in (self.process.pid, *descendants(self.process.pid)):  # sessions lead process groups of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.end()
        self.process = None

    def sessions(self) -> list[int]:
        """The processes that serve connections."""
        assert self.process is not None
        return descendants(self.process.pid)

    def __enter__(self) -> Sshd:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()


class NewSshd(Sshd):
    """OpenSSH 10, which remembers who did not behave (PerSourcePenalties): in a root of its own, so only as root."""

    def _command(self) -> list[str]:
        config = self._config().replace(str(self.directory), "/box")
        (self.directory / "sshd_config").write_text(config)
        return [*_UNSHARED, _IN_A_TREE, "sh", str(find_tree(OPENSSH_10)), str(self.directory)]
