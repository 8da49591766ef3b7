"""I/O: what unpacks a release on a machine without Python: whole or not at all, and one sentence when not."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.debian_programs import NoProgram, find_program

UNPACK = Path(__file__).parents[2] / "ansible" / "roles" / "common" / "files" / "unpack.sh"


def release(program: str = "#!/bin/sh\nexit 0\n", top: str = "meshbridge-1.0/") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        entry = tarfile.TarInfo(f"{top}bin/meshbridge")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program.encode()))
    return raw.getvalue()


def unpack(
    tmp_path: Path, archive: bytes, prefix: Path, digest: str | None = None, *, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Args: path: where all programs are that the machine has, the shell among them."""
    whole = tmp_path / "unpack.run"
    whole.write_bytes(UNPACK.read_bytes() + archive)
    wanted = digest or hashlib.sha256(archive).hexdigest()
    argv = ["sh" if path is None else str(path / "sh"), str(whole), str(prefix), "1.0", wanted]
    environment = {**os.environ, **({"PATH": str(path)} if path else {})}
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=environment)


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """All that a machine has which has nothing but busybox."""
    try:
        program = find_program("busybox").path
    except NoProgram as why:
        pytest.skip(str(why))
    place = tmp_path / "busybox"
    place.mkdir()
    for name in subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split():
        (place / name).symlink_to(program)
    return place


@pytest.mark.parametrize("top", ["meshbridge-1.0/", ""])
def test_a_release_is_unpacked(tmp_path: Path, top: str) -> None:
    done = unpack(tmp_path, release(top=top), tmp_path / "opt")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "opt").iterdir()] == ["1.0"]
    assert (tmp_path / "opt/1.0/bin/meshbridge").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("archive", "digest", "words"),
    [
        (release(), "0" * 64, "not the one that its .sha256 describes"),
        (release("#!/bin/sh\nexit 1\n"), None, "does not run on this machine"),
        (release(top="other/"), None, "no bin/meshbridge"),
        (release()[:60], None, "cannot be unpacked"),
    ],
)
def test_what_cannot_be_used_leaves_nothing(tmp_path: Path, archive: bytes, digest: str | None, words: str) -> None:
    done = unpack(tmp_path, archive, tmp_path / "opt", digest)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert list((tmp_path / "opt").iterdir()) == []


def test_the_release_before_stays_until_the_new_one_is_good(tmp_path: Path) -> None:
    assert unpack(tmp_path, release(), tmp_path / "opt").returncode == 0
    assert unpack(tmp_path, release("#!/bin/sh\nexit 1\n"), tmp_path / "opt").returncode == 1
    assert (tmp_path / "opt/1.0/bin/meshbridge").read_text() == "#!/bin/sh\nexit 0\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        prefix = Path("/proc/meshbridge")  # nobody, root included, makes anything there
    else:
        prefix = tmp_path / "locked" / "opt"
        prefix.parent.mkdir(mode=0o500)
    done = unpack(tmp_path, release(), prefix)
    assert done.returncode == 1
    assert f"{prefix} cannot be made; is the file system read-only?" in done.stderr


def test_nothing_but_busybox_is_needed(tmp_path: Path, busybox: Path) -> None:
    done = unpack(tmp_path, release(), tmp_path / "opt", path=busybox)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "opt/1.0/bin/meshbridge").stat().st_mode & 0o111
    done = unpack(tmp_path, release("#!/bin/sh\nexit 1\n"), tmp_path / "opt", path=busybox)
    assert "does not run on this machine" in done.stderr


def test_a_tool_that_is_missing_is_named(tmp_path: Path) -> None:
    place = tmp_path / "tools"
    place.mkdir()
    for name in ("sh", "awk", "cut", "df", "gzip", "tail", "wc", "mkdir", "rm", "sha256sum"):
        (place / name).symlink_to(shutil.which(name) or pytest.skip(f"there is no {name} here"))
    done = unpack(tmp_path, release(), tmp_path / "opt", path=place)
    assert done.returncode == 1
    assert done.stderr == "meshbridge: there is no tar here, which unpacking takes; install it\n"


def test_under_selinux_the_release_gets_the_labels_of_programs(tmp_path: Path, busybox: Path) -> None:
    tool = busybox / "restorecon"
    tool.write_text(f'#!{busybox}/sh\necho "$@" >{tmp_path}/labelled\n')
    tool.chmod(0o755)
    assert unpack(tmp_path, release(), tmp_path / "opt", path=busybox).returncode == 0
    assert (tmp_path / "labelled").read_text() == f"-R {tmp_path}/opt/1.0\n"
