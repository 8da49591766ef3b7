"""I/O: archives of `make dist` for tests: made once for a state of the sources, and the same under another version.

An archive takes a minute to make, so it stays in build/ until a source changes. `with_version` costs a second or two.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "archives"
MAKE_TIMEOUT = 600.0
_SOURCES = ("agents", "bridge", "cli", "inventory", ".ci/dist.py", ".ci/shared_libraries.py", "pyproject.toml")

Change = Callable[[Path], None]
"""Gets an unpacked release, and does something to it."""


def make_archive() -> Path:
    """`make dist`, unless the archive of these sources is there already; its path."""
    state = _state()
    place = CACHE / state
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            for old in CACHE.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            _make(CACHE / "new")
            (CACHE / "new").rename(place)
    [archive] = [path for path in place.glob("*.tar.gz") if "wheels" not in path.name]
    return archive


def _make(place: Path) -> None:
    command = ["make", "--no-print-directory", "dist", f"ARGS={place}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=MAKE_TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.rmtree(place / "build")


def _state() -> str:
    found = hashlib.sha256()
    for source in _SOURCES:
        path = ROOT / source
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def with_version(archive: Path, version: str, into: Path, *changes: Change) -> Path:
    """The release as another version, its checksum beside it, in `into`."""
    into.mkdir(parents=True, exist_ok=True)
    work = into / f"{version}.work"
    work.mkdir()
    _run("tar", "-xzf", archive, "-C", work)
    [tree] = work.iterdir()
    about = json.loads((tree / "about.json").read_text())
    (tree / "about.json").write_text(json.dumps({**about, "version": version}, indent=2) + "\n")
    [record] = tree.rglob("meshbridge-*.dist-info")
    time = record.parent.stat().st_mtime_ns
    words = (record / "METADATA").read_text()
    (record / "METADATA").write_text(re.sub("(?m)^Version: .*", f"Version: {version}", words))
    record.rename(record.with_name(f"meshbridge-{version}.dist-info"))
    for change in changes:
        change(tree)
    os.utime(record.parent, ns=(time, time))
    tree = tree.rename(work / f"meshbridge-{version}")
    made = into / f"meshbridge-{version}-{platform.machine()}.tar.gz"
    _run("tar", "--owner=root:0", "--group=root:0", "-I", "gzip -1", "-cf", made, "-C", work, tree.name)
    shutil.rmtree(work)
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    made.with_name(made.name + ".sha256").write_text(f"{digest}  {made.name}\n")
    return made


def _run(*command: str | Path) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
