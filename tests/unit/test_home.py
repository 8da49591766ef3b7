"""I/O: files of the home directory: whole or not at all, secret or refused, one node per home."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inventory.errors import InputError, Unavailable
from inventory.home import lock_home, make_home, read_file, read_secret, write_file, write_secret


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    make_home(made)
    return made


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(bits: int) -> Iterator[None]:
    before = os.umask(bits)
    try:
        yield
    finally:
        os.umask(before)


def test_a_home_is_made_for_its_owner_only(tmp_path: Path) -> None:
    with umask(0):
        make_home(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o700
    make_home(tmp_path / "a")


def test_a_secret_is_its_owners_from_the_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    real = os.write

    def watching(fd: int, data: bytes) -> int:
        modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
        return real(fd, data)

    monkeypatch.setattr(os, "write", watching)
    with umask(0):
        write_secret(home / "key", b"secret")
        write_file(home / "public", b"text")
    assert modes == [0o600, 0o644]
    assert read_secret(home / "key") == b"secret" and mode(home / "key") == 0o600
    assert read_file(home / "public") == b"text"
    assert sorted(p.name for p in home.iterdir()) == ["key", "public"]


def test_a_file_is_replaced_whole(home: Path) -> None:
    write_secret(home / "key", b"old" * 1000)
    with (home / "key").open("rb") as before:
        write_secret(home / "key", b"new")
        assert before.read() == b"old" * 1000
    assert read_secret(home / "key") == b"new"


def test_a_link_in_place_of_a_file_is_replaced_not_followed(home: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (home / "key").symlink_to(victim)
    with pytest.raises(Unavailable, match="key: cannot read it") as caught:
        read_secret(home / "key")
    assert "symbolic link" in caught.value.hint
    write_secret(home / "key", b"secret")
    assert victim.read_bytes() == b"mine" and not (home / "key").is_symlink()


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660, 0o666, 0o610, 0o601])
def test_f28_a_secret_that_others_can_reach_is_refused_with_the_chmod(home: Path, bits: int) -> None:
    write_secret(home / "key", b"secret")
    (home / "key").chmod(bits)
    with pytest.raises(InputError, match=f"mode {bits:04o}") as caught:
        read_secret(home / "key")
    assert caught.value.hint == f"chmod 600 {home}/key" and caught.value.exit_code == 64
    (home / "key").chmod(0o400)
    assert read_secret(home / "key") == b"secret"


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777, 0o1777])
def test_f28_a_home_that_others_can_write_to_is_refused_with_the_chmod(home: Path, bits: int) -> None:
    home.chmod(bits)
    for attempt in (lambda: write_secret(home / "key", b""), lambda: make_home(home), lambda: lock_home(home)):
        with pytest.raises(InputError, match="other users can write") as caught:
            attempt()
        assert caught.value.hint == f"chmod go-w {home}"
    assert not list(home.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_f28_a_secret_of_another_owner_is_refused_with_the_chown(home: Path) -> None:
    write_secret(home / "key", b"secret")
    os.chown(home / "key", 12345, -1)
    with pytest.raises(InputError, match="belongs to user 12345") as caught:
        read_secret(home / "key")
    assert caught.value.hint == f"chown 0 {home}/key"
    os.chown(home, 12345, -1)
    with pytest.raises(InputError, match="belongs to user 12345") as caught:
        make_home(home)
    assert caught.value.hint == f"chown 0 {home}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_f28_a_directory_without_permission_says_so(home: Path) -> None:
    home.chmod(0o500)
    with pytest.raises(Unavailable, match="Permission denied") as caught:
        write_secret(home / "key", b"secret")
    assert f"chmod u+rwx {home}" in caught.value.hint


def test_what_is_no_file_is_refused(home: Path) -> None:
    os.mkfifo(home / "fifo", 0o600)
    (home / "directory").mkdir()
    for name in ("fifo", "directory"):
        with pytest.raises(InputError, match="not a regular file"):
            read_secret(home / name)
    with pytest.raises(Unavailable, match="No such file"):
        read_secret(home / "nothing")
    with pytest.raises(Unavailable, match="No such file"):
        write_secret(home / "nowhere" / "key", b"")


def test_a_file_that_is_too_large_is_refused(home: Path) -> None:
    write_file(home / "big", bytes(101))
    assert len(read_file(home / "big", 101)) == 101
    with pytest.raises(InputError, match="101 bytes, at most 100"):
        read_file(home / "big", 100)


def test_f26_a_full_disk_leaves_the_old_file_and_says_how_much_was_needed(home: Path) -> None:
    write_secret(home / "key", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(Unavailable, match="key: no space left to write 100000 bytes") as caught:
            write_secret(home / "key", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free space" in caught.value.hint
    assert read_secret(home / "key") == b"old"
    assert [p.name for p in home.iterdir()] == ["key"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_f03_a_write_that_fails_anywhere_leaves_the_old_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    write_secret(home / "key", b"old")

    def fails(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails)
        with pytest.raises(Unavailable, match="Input/output error"):
            write_secret(home / "key", b"new")
    assert read_secret(home / "key") == b"old"
    assert [p.name for p in home.iterdir()] == ["key"]


def test_f17_a_second_node_in_the_same_home_does_not_start(home: Path) -> None:
    held = lock_home(home)
    with pytest.raises(Unavailable, match=f"another meshbridge node runs in this home \\(process {os.getpid()}\\)"):
        lock_home(home)
    held.close()
    held.close()
    with lock_home(home):
        assert mode(home / "lock") == 0o600


def test_f17_the_lock_ends_with_its_process_and_is_not_inherited(home: Path) -> None:
    script = (
        "import subprocess, sys, os\n"
        "from pathlib import Path\n"
        "from inventory.home import lock_home\n"
        "lock_home(Path(sys.argv[1]))\n"
        "child = subprocess.Popen(['cat'], stdin=sys.stdin, stdout=subprocess.DEVNULL, close_fds=False)\n"
        "print(child.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(home)], stdin=reading, stdout=subprocess.PIPE, timeout=30
        )
        assert done.returncode == 1 and int(done.stdout.split()[0]) > 0
        with lock_home(home):
            pass
    finally:
        os.close(reading)
        os.close(writing)


def test_f26_a_home_can_be_locked_on_a_full_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in the file is for people; the lock is not in the file's content."""

    def full(fd: int, content: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with lock_home(home), pytest.raises(Unavailable, match=r"runs in this home \(process unknown\)"):
        lock_home(home)


def test_f26_a_full_disk_on_which_not_even_a_lock_can_be_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "lock":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(Unavailable, match=r"lock: no space left to open it$") as caught:
        lock_home(home)
    assert "free space" in caught.value.hint
