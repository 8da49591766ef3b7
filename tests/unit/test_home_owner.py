"""I/O: root on a home of another user: who it becomes, by which system calls, and what it refuses in words.

No test here becomes anybody: the system calls are written down. tests/e2e has the real ones.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cli import home_owner
from cli.home_owner import Owner, acting_as, become, check_readable, check_writable, owner_of
from inventory.errors import InputError, Unavailable
from tests.support.cli import CommandLine

NAMELESS = 54321
NOBODY = pwd.getpwnam("nobody")

Give = Callable[..., None]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """We are root, and what would change that is written down and not done."""
    made: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "environ", {"HOME": "/root", "USER": "root", "XDG_CONFIG_HOME": "/root/x", "PATH": "/bin"})
    for name in ("initgroups", "setgroups", "setresgid", "setresuid", "setegid", "seteuid"):
        monkeypatch.setattr(os, name, lambda *args, name=name: made.append((name, *args)))
    monkeypatch.setattr(os, "getgroups", lambda: [0, 4])
    monkeypatch.setattr(os, "umask", lambda mask: made.append(("umask", mask)) or 0o022)
    return made


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Give:
    """Lets a path belong to somebody; what nobody was given belongs to root."""
    owners: dict[Path, tuple[int, int, int]] = {}

    def owned(path: Path, info: os.stat_result) -> os.stat_result:
        uid, gid, mode = owners.get(path, (0, 0, 0))
        return os.stat_result((info.st_mode | mode, *info[1:4], uid, gid, *info[6:]))

    monkeypatch.setattr(Path, "lstat", lambda path: owned(path, os.lstat(path)))
    monkeypatch.setattr(Path, "stat", lambda path: owned(Path(os.path.realpath(path)), os.stat(path)))

    def give(path: Path, uid: int, gid: int = 0, *, mode: int = 0) -> None:
        owners[path] = (uid, gid, mode)

    return give


def test_a_home_of_roots_and_a_home_of_anybody_who_is_not_root_change_nothing(
    calls: list[tuple[object, ...]], give: Give, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert owner_of(tmp_path) is None
    give(tmp_path, NAMELESS)
    assert owner_of(tmp_path) is not None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert owner_of(tmp_path) is None


def test_a_home_that_is_not_there_yet_belongs_to_the_owner_of_the_nearest_directory(
    calls: list[tuple[object, ...]], give: Give, tmp_path: Path
) -> None:
    give(tmp_path, NOBODY.pw_uid)
    found = owner_of(tmp_path / "agents" / "vm1")
    assert found is not None
    assert (found.uid, found.gid, found.login) == (NOBODY.pw_uid, NOBODY.pw_gid, "nobody")
    assert str(found) == f"nobody, to whom {tmp_path}/agents/vm1 belongs"


def test_in_a_directory_like_tmp_everybody_owns_what_they_make(
    calls: list[tuple[object, ...]], give: Give, tmp_path: Path
) -> None:
    give(tmp_path, NAMELESS, mode=stat.S_ISVTX)
    assert owner_of(tmp_path / "home") is None
    found = owner_of(tmp_path)  # a home that is there has an owner, sticky or not
    assert found is not None


def test_a_link_counts_as_whoever_made_it(calls: list[tuple[object, ...]], give: Give, tmp_path: Path) -> None:
    """A user's link to a home of root's must not have root work there for that user."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    give(tmp_path / "link", NAMELESS)
    found = owner_of(tmp_path / "link")
    assert found is not None and found.uid == NAMELESS
    give(tmp_path / "link", 0)
    assert owner_of(tmp_path / "link") is None
    give(tmp_path / "real", NOBODY.pw_uid)
    found = owner_of(tmp_path / "link")
    assert found is not None and found.uid == NOBODY.pw_uid
    assert owner_of(tmp_path / "dangling") is None


def test_a_number_without_a_name_never_keeps_roots_group(
    calls: list[tuple[object, ...]], give: Give, tmp_path: Path
) -> None:
    give(tmp_path, NAMELESS, 0)
    found = owner_of(tmp_path)
    assert found is not None and (found.gid, found.login) == (NAMELESS, None)
    give(tmp_path, NAMELESS, 77)
    found = owner_of(tmp_path)
    assert found is not None and found.gid == 77
    assert str(found).startswith(f"user {NAMELESS}, to whom ")


def test_groups_go_first_then_the_group_then_the_user(calls: list[tuple[object, ...]], tmp_path: Path) -> None:
    become(Owner(tmp_path, 998, 997, "meshbridge", "/var/lib/meshbridge"))
    ids = [("initgroups", "meshbridge", 997), ("setresgid", 997, 997, 997), ("setresuid", 998, 998, 998)]
    assert calls == [*ids, ("umask", 0o077)]
    os.environ.pop("PYTEST_CURRENT_TEST", None)
    assert os.environ == {
        "HOME": "/var/lib/meshbridge",
        "USER": "meshbridge",
        "LOGNAME": "meshbridge",
        "MESHBRIDGE_HOME": str(tmp_path),
        "PATH": "/bin",
    }
    calls.clear()
    become(Owner(tmp_path, NAMELESS, 77, None, "/"))
    assert calls[:3] == [("setgroups", [77]), ("setresgid", 77, 77, 77), ("setresuid", NAMELESS, NAMELESS, NAMELESS)]
    assert os.environ == {"HOME": "/", "MESHBRIDGE_HOME": str(tmp_path), "PATH": "/bin"}


def test_acting_as_the_owner_ends_as_root_again_whatever_happens(
    calls: list[tuple[object, ...]], tmp_path: Path
) -> None:
    there = [("umask", 0o077), ("setgroups", [77]), ("setegid", 77), ("seteuid", NAMELESS)]
    back = [("seteuid", 0), ("setegid", 0), ("setgroups", [0, 4]), ("umask", 0o022)]
    with pytest.raises(ZeroDivisionError), acting_as(Owner(tmp_path, NAMELESS, 77, None, "/")):
        assert calls == there
        raise ZeroDivisionError
    assert calls == there + back
    assert os.environ["HOME"] == "/root"


@pytest.mark.parametrize("work", [become, lambda owner: acting_as(owner).__enter__()])
def test_root_that_may_not_become_the_owner_does_nothing_at_all(
    calls: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Owner], None]
) -> None:
    def refused(groups: list[int]) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    real = os.setgroups
    monkeypatch.setattr(os, "setgroups", lambda groups: real(groups) if 0 in groups else refused(groups))
    with pytest.raises(Unavailable, match=f"root may not become user {NAMELESS}, to whom .*: Operation not") as caught:
        work(Owner(tmp_path, NAMELESS, 77, None, "/"))
    assert caught.value.hint == "run the command as that user, without root"
    assert not [call for call in calls if NAMELESS in call]


def test_an_owner_who_cannot_get_to_the_program_or_the_home_is_told_so(
    calls: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path) -> os.stat_result:
        raise PermissionError

    owner = Owner(tmp_path, NAMELESS, 77, None, "/")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", denied)
        with pytest.raises(Unavailable, match=f"this home cannot be reached as user {NAMELESS}"):
            become(owner)
    monkeypatch.setattr(os, "access", lambda path, mode, effective_ids: False)
    with pytest.raises(Unavailable, match="the program cannot be read as user") as caught:
        become(owner)
    assert "/opt/meshbridge" in caught.value.hint


def test_files_that_the_owner_may_not_use_are_named(
    calls: list[tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Owner(Path("/h"), 998, 997, "meshbridge", "/")
    check_readable(owner, tmp_path / "missing")
    check_writable(owner, tmp_path / "missing" / "file")
    check_writable(owner, tmp_path / "file")

    def denied(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(os, "access", lambda *_: False)
    path = tmp_path / "policy.toml"
    with pytest.raises(InputError) as caught:
        check_readable(owner, path, allow_dash=True)
    assert str(caught.value) == f"{path}: it cannot be read as meshbridge, to whom /h belongs"
    assert caught.value.hint == f"use - and give it on stdin: < {path}"
    with pytest.raises(InputError) as caught:
        check_readable(owner, path)
    assert caught.value.hint == "copy it to where that user may read it"
    with pytest.raises(InputError, match=r"it cannot be written as meshbridge, to whom /h belongs"):
        check_writable(owner, path)


FILES = [
    ("policy", "apply", "{}"),
    ("policy", "check", "{}"),
    ("init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1", "--consul-token-file", "{}"),
    ("init", "--domain", "t.internal", "--gateway", "gw1=127.0.0.1:1", "--consul-ca", "{}"),
    ("host", "add", "aix1", "--reach", "ssh://u@192.0.2.1", "--via", "gw1", "--key", "{}"),
    ("host", "add", "aix1", "--reach", "ssh://u@192.0.2.1", "--via", "gw1", "--host-key", "{}"),
    ("host", "add", "aix1", "--reach", "tls://192.0.2.1?ca={}", "--via", "gw1"),
    ("client", "add", "lpar7", "--via", "gw1", "--certificate", "{}"),
    ("registry", "restore", "{}"),
    ("registry", "backup", "{}"),
    ("agent", "run", "--hosts-file", "{}"),
]


@pytest.mark.parametrize("command", FILES, ids=" ".join)
def test_every_file_on_a_command_line_is_looked_at_as_the_owner(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "given"
    file.touch()
    became: list[Owner] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(home_owner, "owner_of", lambda home: Owner(home, 998, 997, "meshbridge", "/"))
    monkeypatch.setattr(home_owner, "become", became.append)
    real_open, real_access = os.open, os.access

    def opened(path: Path, *args: int, **kwargs: int) -> int:
        if path == file:
            raise PermissionError
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path and real_access(path, mode))
    said = CommandLine(tmp_path / "home").refused(64, *(word.format(file) for word in command))
    verb = "written" if command[1] in ("backup", "run") else "read"
    assert f"{file}: it cannot be {verb} as meshbridge, to whom {tmp_path}/home belongs" in said
    assert len(became) == 1
    assert not (tmp_path / "home").exists()
