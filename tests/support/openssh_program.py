"""I/O: a real OpenSSH server to test against: on the path, or fetched once into build/ from what this Debian offers.

    python3 -m tests.support.openssh_program     prints where it is; the reason, and exit code 1, when there is none

The package is unpacked and not installed: no service starts, no user is made. Stdlib only: CI runs this before there is
an environment.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

FETCH_TIMEOUT = 180
PACKAGES = ("openssh-server", "libwrap0")
CACHE = Path(__file__).resolve().parents[2] / "build" / "openssh"
_ROOT = CACHE / "root"
_FETCHED = _ROOT / "usr" / "sbin" / "sshd"


class NoOpenSsh(Exception):
    """Says why."""


@dataclass(frozen=True)
class OpenSsh:
    sshd: Path
    env: dict[str, str] = field(default_factory=dict)
    """What it needs to find its libraries."""


@functools.cache
def find_openssh() -> OpenSsh:
    """The server. Raises NoOpenSsh."""
    on_path = shutil.which("sshd", path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))
    if on_path is not None:
        return OpenSsh(Path(on_path))  # sshd insists on being started by its whole path
    if not _FETCHED.exists():
        _fetch_once()
    libraries = {str(file.parent) for file in _ROOT.rglob("*.so.*")}
    return OpenSsh(_FETCHED, {"LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))})


def _fetch_once() -> None:
    """One process fetches, others wait for it; what failed is not tried again for this checkout until it is cleaned."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoOpenSsh("needs `sshd` (or root and apt, to fetch Debian's)")
    CACHE.mkdir(parents=True, exist_ok=True)
    reason = CACHE / "why-not"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _FETCHED.exists():
            return
        if reason.exists():
            raise NoOpenSsh(reason.read_text())
        try:
            _fetch()
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stderr", None) or str(exc)
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            lines = text.strip().splitlines() or [type(exc).__name__]
            reason.write_text(f"needs `sshd`; Debian's could not be fetched: {lines[-1][:200]}")
            raise NoOpenSsh(reason.read_text()) from None


def _fetch() -> None:
    """With what apt knows of its sources, or, where an image has removed that, with lists of our own."""
    debs = CACHE / "debs"
    lists = CACHE / "lists"
    debs.mkdir(exist_ok=True)
    apt = ["apt-get", "-qq", "-oAPT::Sandbox::User=root"]
    try:
        _run([*apt, "download", *PACKAGES], debs)
    except subprocess.CalledProcessError:
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        own = [*apt, f"-oDir::State::lists={lists}"]
        _run([*own, "update"], CACHE)
        _run([*own, "download", *PACKAGES], debs)
    unpacked = CACHE / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    for deb in debs.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(deb), str(unpacked)], CACHE)
    unpacked.rename(_ROOT)
    shutil.rmtree(debs)


def _run(command: list[str], directory: Path) -> None:
    subprocess.run(
        command, cwd=directory, check=True, capture_output=True, timeout=FETCH_TIMEOUT, stdin=subprocess.DEVNULL
    )


if __name__ == "__main__":
    try:
        print(find_openssh().sshd)
    except NoOpenSsh as why:
        sys.exit(str(why))
