"""I/O: the commands of a first installation, as a person types them, run by a shell, as any user.

The text is that of the documents. Only numbers that may be taken on this machine are replaced: the gateway's port, the
slices of 127.0.0.0/8, the port of the program behind the mesh.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import RunningProcess
from tests.support.traffic import eventually

ROOT = Path(__file__).parents[2]
PACKAGES = ("cli", "agents", "bridge", "inventory")

INIT = "meshbridge --home op init --domain t.internal --gateway gw1=127.0.0.1:17443"
GATEWAY = "meshbridge --home op gateway run"
JOIN_1 = "meshbridge --home op host add vm1 --serve web | meshbridge --home vm1 agent join - --addresses 127.97.0.0/16"
JOIN_2 = "meshbridge --home op host add vm2 | meshbridge --home vm2 agent join - --addresses 127.98.0.0/16"
AGENT_1 = "meshbridge --home vm1 agent run"
AGENT_2 = "meshbridge --home vm2 agent run"
SERVICE = "meshbridge --home op service add web --host vm1 --target 127.0.0.1:9000 --port 8080"
POLICY = """meshbridge --home op policy apply - -m 'vm2 reads the web' <<END
[[allow]]
name = "vm2 reads the web"
from = ["host:vm2"]
to = ["web"]
END"""
CURL = "curl --silent --show-error --max-time 10 http://$(meshbridge --home vm2 resolve web):8080/"
DIG = "dig +short +time=2 +tries=1 @127.98.0.1 -p 5300 web.bridge.internal"


_OPEN_UP = """
set -e
closed=$1; shift
staging=$(mktemp -d "$PWD/staging-XXXXXX")
number=0; wanted=()
while [ "$1" != -- ]; do
    mkdir "$staging/$number"; mount --bind "$1" "$staging/$number"
    wanted+=("$1"); number=$((number + 1)); shift
done
shift
mount -t tmpfs -o mode=755 tmpfs "$closed"
for number in "${!wanted[@]}"; do
    mkdir -p "${wanted[number]}"; mount --bind "$staging/$number" "${wanted[number]}"
done
exec "$@"
"""
"""In a mount namespace of its own: an empty directory over `closed`, with the wanted ones below it to be seen again."""


def become(user: int) -> list[str]:
    """The front of a command line that runs the rest without any privilege."""
    return [
        *open_to_all(),
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
    ]


def open_to_all() -> list[str]:
    """The front of a command line that runs the rest where every user can run this interpreter, for root to give.

    One in root's home cannot be reached by others; for this one command it is put where it can be.
    """
    needed = sorted({str(Path(path).resolve()) for path in (sys.prefix, sys.base_prefix)})
    closed = {path for place in needed for path in Path(place).parents if not path.stat().st_mode & 0o001}
    if not closed:
        return []
    top = str(min(closed, key=lambda path: len(path.parts)))
    below = [path for path in needed if path.startswith(f"{top}/")]
    return ["unshare", "--mount", "--propagation", "private", "bash", "-c", _OPEN_UP, "-", top, *below, "--"]


class Person:
    """Somebody at a terminal in a directory of their own.

    Args:
        instead: text of the commands -> what to type in its place.
        user: numeric id to run everything as; None for ourselves.
        is_followed: it is root who types, and others have to be able to run what root runs.
    """

    def __init__(
        self, directory: Path, *, instead: Mapping[str, str], user: int | None = None, is_followed: bool = False
    ) -> None:
        self.directory = directory
        self._instead = instead
        self._prefix: Sequence[str] = ()
        code = ROOT
        if user is not None or is_followed:
            self._prefix = become(user) if user is not None else open_to_all()
            code = directory / "code"  # the checkout may be where this user cannot go
            for package in PACKAGES:
                shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        program = directory / "bin" / "meshbridge"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nexec env PYTHONPATH={shlex.quote(str(code))} {shlex.quote(sys.executable)} -m cli.main "$@"\n'
        )
        program.chmod(0o755)
        if user is not None:
            for path in (directory, *directory.rglob("*")):
                os.chown(path, user, user)
        self._environment = {
            "PATH": f"{program.parent}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(directory),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def why_not(self) -> str | None:
        """The reason for which this person cannot run the program at all, or None."""
        tried = self._run("meshbridge --version")
        return None if tried.returncode == 0 else f"this user cannot run {sys.executable}: {tried.stderr.strip()}"

    def _argv(self, line: str) -> list[str]:
        for text, here in self._instead.items():
            line = line.replace(text, here)
        return [*self._prefix, "bash", "-o", "pipefail", "-c", line]

    def _run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._argv(line),
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    def types(self, line: str) -> str:
        """Runs one line that has to succeed; what it printed."""
        done = self._run(line)
        assert done.returncode == 0, f"$ {line}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def is_refused(self, code: int, line: str) -> str:
        """Runs one line that has to fail with this exit code; what it said."""
        done = self._run(line)
        assert done.returncode == code, f"$ {line}\nexit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stderr

    def runs(self, line: str, name: str) -> RunningProcess:
        """Types a line with `&` at its end, and waits for the ready line."""
        logs = self.directory / "logs"
        logs.mkdir(exist_ok=True)
        argv = self._argv(f"exec {line}")
        process = RunningProcess(name, argv, logs=logs, cwd=self.directory, env=self._environment)
        process.stderr.wait_for("ready", 30)
        return process

    def types_until(self, line: str, wanted: str) -> str:
        """Types a line again until it prints `wanted`: changes need a moment to arrive."""

        def printed() -> str | None:
            out = self._run(line).stdout
            return out if wanted in out else None

        return eventually(printed, timeout=20, what=f"{wanted!r} from: {line}") or ""
