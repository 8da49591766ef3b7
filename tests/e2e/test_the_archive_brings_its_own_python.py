"""I/O: the archive of `make dist` works where it is unpacked, with nothing of the machine but libc."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.estate import OPERATOR, ROOT, Estate
from tests.support.pair import status, wait_version, worker_pids
from tests.support.traffic import eventually

MAKE_TIMEOUT = 600.0
LIBC = ("ld-linux", "libc.", "libm.", "libdl.", "libpthread.", "librt.", "libutil.", "libresolv.", "libnss_")
AT_WILL = ("libnettle.", "gconv-modules.cache")
"""Taken where they are: asyncssh's for UMAC, which we never offer; libc's own table of character sets."""

MAPPED = """
import ssl, sqlite3, ctypes, lzma, bz2, hashlib, uuid, zlib, decimal
import cryptography.hazmat.bindings._rust, nacl.bindings, msgspec, asyncssh
from pathlib import Path
for line in Path("/proc/self/maps").read_text().splitlines():
    if "/" in line:
        print(line.split(maxsplit=5)[5])
"""

START_ANOTHER = """
import subprocess, sys
subprocess.run([sys.executable, "-I", "-c", sys.argv[1]], check=True)
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the archive is made where there is glibc")


def make(out: Path) -> Path:
    done = subprocess.run(
        ["make", "--no-print-directory", "dist", f"ARGS={out}"],
        cwd=ROOT, capture_output=True, text=True, timeout=MAKE_TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stdout)
    [archive] = [path for path in out.glob("*.tar.gz") if "wheels" not in path.name]
    return archive


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def tree(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked, as `current`, with a name that a careless script would trip over; what it was made from is gone."""
    place = tmp_path_factory.mktemp("a place with 'quotes'")
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="tar")
    [top] = place.iterdir()
    (place / "current").symlink_to(top.name)
    (archive.parent / "build").rename(archive.parent / "moved away")
    return place / "current"


def run(*argv: str | Path, **environment: str) -> str:
    """With an empty environment and no program to be found by its name."""
    done = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_runs_where_it_was_unpacked(tree: Path) -> None:
    about = json.loads((tree / "about.json").read_text())
    command = tree / "bin/meshbridge"
    assert run(command, "--version") == f"meshbridge, version {about['version']}\n"
    assert run(command, "--help").startswith("Usage: meshbridge ")
    astray = {"PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere", "LD_LIBRARY_PATH": "/nowhere"}
    assert "version" in run(command, "--version", **astray)


def test_it_runs_by_a_link_and_through_a_link_to_its_tree(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/one").symlink_to(tree / "bin/meshbridge")
    (tmp_path / "two").symlink_to("bin/one")
    assert "version" in run(tmp_path / "two", "--version")


def test_it_needs_nothing_of_this_machine_but_libc(tree: Path) -> None:
    own = str(tree.resolve())
    mapped = set(run(tree / "python/bin/python3", "-I", "-c", MAPPED).splitlines())
    assert any("libssl" in path for path in mapped)
    foreign = {path for path in mapped if not path.startswith((own, "/usr/lib/locale/", "/usr/share/"))}
    assert [path for path in foreign if not os.path.basename(path).startswith((*LIBC, *AT_WILL))] == []


def test_where_libc_is_too_old_it_uses_the_one_that_it_brings(tree: Path, tmp_path: Path) -> None:
    """And so do the processes that it starts."""
    old = tmp_path / "getconf"
    old.write_text("#!/bin/sh\necho glibc 2.17\n")
    old.chmod(0o755)
    python = tree / "python/bin/python3"
    mapped = run(python, "-I", "-c", START_ANOTHER, MAPPED, PATH=str(tmp_path)).splitlines()
    own = str(tree.resolve())
    libc = {path for path in mapped if os.path.basename(path).startswith(("libc.", "ld-linux"))}
    assert len(libc) == 2 and all(path.startswith(own) for path in libc)
    names = "import pwd, socket; print(pwd.getpwuid(0).pw_name, socket.gethostbyname('localhost'))"
    words = run(python, "-I", "-c", names, PATH=str(tmp_path))
    assert words == "root 127.0.0.1\n"
    assert "version" in run(tree / "bin/meshbridge", "--version", PATH=str(tmp_path))


def test_a_new_estate_is_made_with_it(tree: Path, tmp_path: Path) -> None:
    words = ("--home", str(tmp_path / "op"), "init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1")
    run(tree / "bin/meshbridge", *words)
    assert (tmp_path / "op/operator.key").exists()


def trees(estate: Estate) -> set[Path]:
    """Whose Python the gateway and its worker run in."""
    answer = status(estate, OPERATOR)
    pids = [answer["pid"], *(worker["pid"] for worker in answer["workers"])]
    return {Path(os.readlink(f"/proc/{pid}/exe")).parents[2] for pid in pids if pid is not None}


def test_a_node_becomes_the_version_that_current_leads_to(estate: Estate, tree: Path, tmp_path: Path) -> None:
    """The files of both trees have one time, as those of two archives made of one commit."""
    prefix = tmp_path / "prefix"
    for number in ("0.1.0", "9.9.9"):
        shutil.copytree(tree.resolve(), prefix / number, symlinks=True, copy_function=os.link)
    [record] = (prefix / "9.9.9").rglob("meshbridge-*.dist-info")
    time = record.parent.stat().st_mtime_ns
    words = (record / "METADATA").read_text()
    (record / "METADATA").unlink()
    (record / "METADATA").write_text(re.sub("(?m)^Version: .*", "Version: 9.9.9", words))
    record = record.rename(record.with_name("meshbridge-9.9.9.dist-info"))
    os.utime(record.parent, ns=(time, time))
    (prefix / "current").symlink_to("0.1.0")

    estate.init()
    home = str(estate.home(OPERATOR))
    command = [str(prefix / "current/bin/meshbridge"), "--home", home, "gateway", "run", "--workers", "1"]
    gateway = estate.start("gateway", command)
    gateway.stderr.wait_for(" is ready", 30)
    (prefix / "next").symlink_to("9.9.9")
    (prefix / "next").rename(prefix / "current")
    [worker] = worker_pids(estate, OPERATOR)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: worker_pids(estate, OPERATOR) != [worker], what="another worker", timeout=30)
    assert trees(estate) == {prefix / "0.1.0"}, "all of one release, wherever `current` leads by now"
    gateway.signal(signal.SIGHUP)
    wait_version(estate, OPERATOR, "9.9.9")
    eventually(lambda: trees(estate) == {prefix / "9.9.9"}, what="all of the next one, its Python included", timeout=30)
    assert status(estate, OPERATOR)["pid"] == gateway.pid


def test_no_start_compiles_anything_again(tree: Path) -> None:
    """Compiled once, whatever the times of the files are, and by nobody who could write there later."""
    sources = {path for path in (tree / "python/lib").rglob("*.py") if "site-packages" not in path.parts}
    kept = {Path(*path.parts[:-2]) / (path.name.split(".")[0] + ".py"): path for path in tree.rglob("*.pyc")}
    unchecked = {source for source, path in kept.items() if path.read_bytes()[4:8] == b"\1\0\0\0"}
    assert unchecked == kept.keys() and len(sources & unchecked) > 0.95 * len(sources)


def test_the_checksum_is_that_of_the_archive_and_twice_is_the_same(archive: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert archive.with_name(archive.name + ".sha256").read_text() == f"{digest}  {archive.name}\n"
    again = make(tmp_path)
    assert hashlib.sha256(again.read_bytes()).hexdigest() == digest
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
    names = [member.name.split("/") for member in members]
    assert names == sorted(names) and len({member.mtime for member in members}) == 1
    assert {(member.uid, member.gid) for member in members} == {(0, 0)}
    assert {oct(member.mode) for member in members if not member.issym()} == {"0o755", "0o644"}


def test_the_wheels_install_without_an_index(archive: Path, tmp_path: Path) -> None:
    [wheels] = archive.parent.glob("*-wheels.tar.gz")
    with tarfile.open(wheels) as packed:
        packed.extractall(tmp_path, filter="data")
    [place] = tmp_path.iterdir()
    only = ("--no-index", "--find-links", str(place), "--dry-run", "--ignore-installed", "--no-cache-dir")
    pip = (ROOT / ".venv/bin/python", "-m", "pip", "install", *only, "meshbridge")
    assert "Would install" in run(*pip)
