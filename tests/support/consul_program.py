"""I/O: a real Consul to test against: on the path, or fetched once into build/ from the distribution that apt uses.

    python3 -m tests.support.consul_program      prints where it is; the reason, and exit code 1, when there is none

Debian's last suite with Consul is bullseye. It is downloaded with lists and a cache of its own and unpacked, so the
system's apt configuration and packages stay as they are. Stdlib only: CI runs this before there is an environment.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

SUITE = "bullseye"
FETCH_TIMEOUT = 180
CACHE = Path(__file__).resolve().parents[2] / "build" / "consul"
_FETCHED = CACHE / "root" / "usr" / "bin" / "consul"


class NoConsul(Exception):
    """Says why."""


@functools.cache
def find_consul() -> Path:
    """The program. Raises NoConsul."""
    on_path = shutil.which("consul")
    if on_path is not None:
        return Path(on_path)
    if not _FETCHED.exists():
        _fetch_once()
    return _FETCHED


def _fetch_once() -> None:
    """One process fetches, others wait for it; what failed is not tried again for this checkout until it is cleaned."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoConsul("needs `consul` on the path (or root and apt, to fetch Debian's)")
    CACHE.mkdir(parents=True, exist_ok=True)
    reason = CACHE / "why-not"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _FETCHED.exists():
            return
        if reason.exists():
            raise NoConsul(reason.read_text())
        try:
            _fetch()
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stderr", None) or str(exc)
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            lines = text.strip().splitlines() or [type(exc).__name__]
            reason.write_text(f"needs `consul` on the path; Debian's could not be fetched: {lines[-1][:200]}")
            raise NoConsul(reason.read_text()) from None


def _fetch() -> None:
    sources, work = CACHE / "sources.list", CACHE / "work"
    sources.write_text(f"deb {_mirror()} {SUITE} main\n")
    for directory in ("lists/partial", "cache/archives/partial", "debs"):
        (work / directory).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",  # the checkout may lie where apt's own user cannot write
        "Acquire::Retries": 2,
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _run([*apt, "update"], work)
    _run([*apt, "download", "consul"], work / "debs")
    deb = next((work / "debs").glob("consul_*.deb"))
    unpacked = CACHE / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    _run(["dpkg-deb", "-x", str(deb), str(unpacked)], work)
    _run([str(unpacked / "usr" / "bin" / "consul"), "version"], work)
    unpacked.rename(CACHE / "root")
    shutil.rmtree(work)


def _mirror() -> str:
    """The archive that this machine's own Debian comes from, as apt knows it."""
    form = ["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"]
    own = CACHE / "own-lists"
    for apt in (["apt-get"], ["apt-get", "-qq", f"-oDir::State::lists={own}", "-oAPT::Sandbox::User=root"]):
        if len(apt) > 1:  # what apt knows of its sources was removed: images do that
            (own / "partial").mkdir(parents=True, exist_ok=True)
            _run([*apt, "update"], CACHE)
        for line in _run([*apt, *form], CACHE).splitlines():
            origin, label, uri = line.split("|")
            if (origin, label) == ("Debian", "Debian"):
                return uri
    raise OSError("apt knows no Debian archive here")


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, check=True, capture_output=True, timeout=FETCH_TIMEOUT, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode()


if __name__ == "__main__":
    try:
        print(find_consul())
    except NoConsul as why:
        sys.exit(str(why))
