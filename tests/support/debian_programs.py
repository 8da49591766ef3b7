"""I/O: real servers and clients to test against: on the path, or fetched once into build/ from what this Debian offers.

    python3 -m tests.support.debian_programs     prints where each is, or the reason why it is not to be had

The packages are unpacked and not installed: no service starts, no user is made. Stdlib only: CI runs this before there
is an environment.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

FETCH_TIMEOUT = 180
PACKAGES = {
    "sshd": ("openssh-server", "libwrap0"),
    "hercules": ("hercules",),
    "s3270": ("s3270", "3270-common"),
    "vsftpd": ("vsftpd", "libwrap0"),
    "debootstrap": ("debootstrap",),
    "systemd-nspawn": ("systemd-container", "libsystemd-shared"),
    "shellcheck": ("shellcheck",),
    "busybox": ("busybox-static",),
}
"""By program, with those of its libraries that a small installation lacks."""
OPENSSH_10 = "openssh-10"
TREES = {
    OPENSSH_10: (
        "trixie",
        (
            *("openssh-server", "libc6", "libaudit1", "libcap-ng0", "libcom-err2", "libcrypt1", "libssl3t64", "zlib1g"),
            *("libgssapi-krb5-2", "libkrb5-3", "libk5crypto3", "libkrb5support0", "libkeyutils1", "libpam0g"),
            *("libselinux1", "libpcre2-8-0", "libwrap0", "libwtmpdb0", "libsqlite3-0", "libzstd1", "libsystemd0"),
        ),
    )
}
"""By name, programs of a later Debian, with the C library and all that they need: to be run in a root of their own."""
CACHE = Path(__file__).resolve().parents[2] / "build" / "debian"
_SYSTEM = "/usr/sbin:/usr/local/sbin"


class NoProgram(Exception):
    """Says why."""


@dataclass(frozen=True)
class Program:
    path: Path
    """Whole: sshd insists on that."""
    env: dict[str, str] = field(default_factory=dict)
    """What it needs to find its libraries."""


@functools.cache
def find_program(name: str) -> Program:
    """Raises NoProgram."""
    on_path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}")
    if on_path is not None:
        return Program(Path(on_path))
    root = CACHE / name / "root"
    if not root.exists():
        _fetch_once(name)
    libraries = {str(file.parent) for file in root.rglob("*.so*")}
    path = next(file for folder in ("usr/sbin", "usr/bin", "bin") if (file := root / folder / name).exists())
    return Program(path, {"LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))} if libraries else {})


def find_tree(name: str) -> Path:
    """A root directory for `chroot`. Raises NoProgram."""
    root = CACHE / name / "root"
    if not root.exists():
        _fetch_once(name)
    return root


def _fetch_once(name: str) -> None:
    """One process fetches, others wait for it; what failed is not tried again for this checkout until it is cleaned."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NoProgram(f"needs `{name}` (or root and apt, to fetch Debian's)")
    cache = CACHE / name
    cache.mkdir(parents=True, exist_ok=True)
    reason = cache / "why-not"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (cache / "root").exists():
            return
        if reason.exists():
            raise NoProgram(reason.read_text())
        try:
            if name in TREES:
                _fetch_tree(cache, *TREES[name])
            else:
                _fetch(cache, PACKAGES[name])
        except (OSError, subprocess.SubprocessError) as exc:
            said = getattr(exc, "stderr", None) or str(exc)
            text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
            lines = text.strip().splitlines() or [type(exc).__name__]
            reason.write_text(f"needs `{name}`; Debian's could not be fetched: {lines[-1][:200]}")
            raise NoProgram(reason.read_text()) from None


def _fetch(cache: Path, packages: tuple[str, ...]) -> None:
    """With what apt knows of its sources, or, where an image has removed that, with lists of our own."""
    debs, lists, unpacked = cache / "debs", CACHE / "lists", cache / "unpacked"
    debs.mkdir(exist_ok=True)
    apt = ["apt-get", "-qq", "-oAPT::Sandbox::User=root"]
    try:
        _run([*apt, "download", *packages], debs)
    except subprocess.CalledProcessError:
        (lists / "partial").mkdir(parents=True, exist_ok=True)
        own = [*apt, f"-oDir::State::lists={lists}"]
        _run([*own, "update"], cache)
        _run([*own, "download", *packages], debs)
    _unpack(debs, unpacked)
    unpacked.rename(cache / "root")
    shutil.rmtree(debs)


def _fetch_tree(cache: Path, suite: str, packages: tuple[str, ...]) -> None:
    """With lists of our own, from the archive that this machine's Debian comes from."""
    debs, work, unpacked = cache / "debs", cache / "work", cache / "unpacked"
    for directory in (debs, work / "lists" / "partial", work / "cache" / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    known = _run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"], cache).splitlines()
    archive = next((line.split("|")[2] for line in known if line.startswith("Debian|Debian|")), None)
    if archive is None:
        raise OSError("apt knows no Debian archive here")
    (work / "sources.list").write_text(f"deb {archive} {suite} main\n")
    options = {
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _run([*apt, "update"], cache)
    _run([*apt, "download", *packages], debs)
    _unpack(debs, unpacked)
    for folder in ("bin", "lib", "lib64", "sbin"):
        if not (unpacked / folder).exists():
            (unpacked / folder).symlink_to(f"usr/{folder}")
    for folder in ("dev", "proc", "tmp", "run/sshd", "box"):
        (unpacked / folder).mkdir(parents=True, exist_ok=True)
    shell = "/usr/sbin/sshd"  # there is no shell; sshd asks only whether the file is there
    (unpacked / "etc" / "passwd").write_text(f"root:x:0:0::/:{shell}\nsshd:x:100:65534::/run/sshd:{shell}\n")
    (unpacked / "etc" / "group").write_text("root:x:0:\nnogroup:x:65534:\n")
    unpacked.rename(cache / "root")
    shutil.rmtree(debs)
    shutil.rmtree(work)


def _unpack(debs: Path, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for deb in debs.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(deb), str(directory)], debs)


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command, cwd=directory, check=True, capture_output=True, timeout=FETCH_TIMEOUT, stdin=subprocess.DEVNULL
    )
    return done.stdout.decode()


if __name__ == "__main__":
    for wanted in (*PACKAGES, *TREES):
        try:
            print(find_tree(wanted) if wanted in TREES else find_program(wanted).path)
        except NoProgram as why:
            print(why)
