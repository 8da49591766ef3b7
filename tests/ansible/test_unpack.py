"""I/O: what unpacks a release on a machine without Python: whole or not at all, and one sentence when not."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

UNPACK = Path(__file__).parents[2] / "ansible" / "roles" / "common" / "files" / "unpack.sh"


def release(program: str = "#!/bin/sh\nexit 0\n", top: str = "meshbridge-1.0/") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        entry = tarfile.TarInfo(f"{top}bin/meshbridge")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program.encode()))
    return raw.getvalue()


def unpack(tmp_path: Path, archive: bytes, prefix: Path, digest: str | None = None) -> subprocess.CompletedProcess[str]:
    whole = tmp_path / "unpack.run"
    whole.write_bytes(UNPACK.read_bytes() + archive)
    wanted = digest or hashlib.sha256(archive).hexdigest()
    argv = ["sh", str(whole), str(prefix), "1.0", wanted]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


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
