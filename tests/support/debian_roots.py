"""I/O: root directories of small Debian systems, each made once by debootstrap, into build/: what machines boot from.

    python3 -m tests.support.debian_roots     makes them, and prints where each is, or why it is not to be had

They are never written to again: a machine lays its own changes over one. Stdlib only: CI runs this before there is an
environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.debian_programs import NoProgram, find_program

CACHE = Path(__file__).resolve().parents[2] / "build" / "roots"
MAKE_TIMEOUT = 600
MIRROR = "http://deb.debian.org/debian"


@dataclass(frozen=True)
class Release:
    """A Debian release, and what it is used for."""

    systemd: int
    packages: tuple[str, ...]


_PACKAGES = ("systemd", "systemd-sysv", "dbus", "openssh-server", "python3", "iproute2", "curl")
RELEASES = {
    "bullseye": Release(247, (*_PACKAGES, "dnsmasq")),
    "bookworm": Release(252, (*_PACKAGES, "systemd-resolved", "unbound", "dns-root-data")),
}


def find_root(release: str) -> Path:
    """Raises NoProgram, with the reason."""
    root = CACHE / release / "root"
    if root.exists():
        return root
    if os.geteuid() != 0:
        raise NoProgram("needs root, to make a Debian system")
    CACHE.joinpath(release).mkdir(parents=True, exist_ok=True)
    reason = CACHE / release / "why-not"
    with (CACHE / release / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if root.exists():
            return root
        if reason.exists():
            raise NoProgram(reason.read_text())
        try:
            _make(release, CACHE / release)
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stdout", None) or str(exc)
            lines = (said.decode(errors="replace") if isinstance(said, bytes) else str(said)).strip().splitlines()
            reason.write_text(f"no Debian {release}: {lines[-1][:200] if lines else type(exc).__name__}")
            raise NoProgram(reason.read_text()) from None
    return root


def _make(release: str, place: Path) -> None:
    debootstrap = find_program("debootstrap")
    share = debootstrap.path.parents[1] / "share" / "debootstrap"
    work = place / "work"
    shutil.rmtree(work, ignore_errors=True)
    packages = ",".join(RELEASES[release].packages)
    command = [debootstrap.path, "--variant=minbase", f"--include={packages}", release, work, MIRROR]
    subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "DEBOOTSTRAP_DIR": str(share)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=MAKE_TIMEOUT,
        check=True,
    )
    for archive in work.glob("var/cache/apt/archives/*.deb"):
        archive.unlink()
    work.rename(place / "root")


if __name__ == "__main__":
    for wanted in RELEASES:
        try:
            print(find_root(wanted))
        except NoProgram as why:
            print(why)
