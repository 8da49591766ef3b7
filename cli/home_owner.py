"""I/O: a command that root runs on a home of another user becomes that user, before anything of the home is opened.

What root left there the node could not read. And whoever owns a home says what is in it: to read it, follow its links
and write into it with all of root's rights would be a way to become root. So root acts with the owner's rights.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from inventory.errors import InputError, Unavailable


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a home is, and who root becomes there."""

    home: Path
    uid: int
    gid: int
    login: str | None
    """None: no name belongs to this number."""
    directory: str
    """What HOME says: root's own leads to root's own files."""

    def __str__(self) -> str:
        return f"{self.login or f'user {self.uid}'}, to whom {self.home} belongs"


def owner_of(home: Path) -> Owner | None:
    """Whom root has to become for this home; None when we are not root, and when the home is root's or will be.

    A home that is not there yet belongs to the owner of the directory that it will be made in.
    """
    if os.geteuid() != 0:
        return None
    home = home.absolute()
    for path in (home, *home.parents):
        try:
            info = _chosen_by(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return None  # opening it will say why
        is_shared = path != home and info.st_mode & stat.S_ISVTX
        # Below a directory like /tmp everybody owns what they make, whoever owns the directory.
        return None if is_shared or info.st_uid == 0 else _owner(home, info)
    return None


def _chosen_by(path: Path) -> os.stat_result:
    """Of a link its own owner counts, unless that is root: who says where it leads is lent no more than their own."""
    info = path.lstat()
    return path.stat() if stat.S_ISLNK(info.st_mode) and info.st_uid == 0 else info


def _owner(home: Path, info: os.stat_result) -> Owner:
    import pwd

    try:
        entry = pwd.getpwuid(info.st_uid)
    except KeyError:
        # Not root's group, though the directory may be in it: it opens files that are nobody else's business.
        return Owner(home, info.st_uid, info.st_gid or info.st_uid, None, "/")
    return Owner(home, entry.pw_uid, entry.pw_gid, entry.pw_name, entry.pw_dir)


def become(owner: Owner) -> None:
    """All that this process does from here on, and whatever it starts, it does as the owner; there is no way back.

    Raises:
        Unavailable: root may not do that here, or the owner cannot get to the program or the home.
    """
    with _allowed_to(owner):
        _take_groups(owner)
        os.setresgid(owner.gid, owner.gid, owner.gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)
    os.umask(0o077)
    for name in [*filter(lambda name: name.startswith("XDG_"), os.environ), "USER", "LOGNAME"]:
        os.environ.pop(name, None)
    if owner.login is not None:
        os.environ.update(USER=owner.login, LOGNAME=owner.login)
    # A node that becomes a new version is started again as this user, whose default home is another one.
    os.environ.update(HOME=owner.directory, MESHBRIDGE_HOME=str(owner.home))
    _check_ways(owner)


@contextmanager
def acting_as(owner: Owner | None) -> Iterator[None]:
    """As the owner in here, and root again afterwards, for what needs both. Raises as `become` does."""
    if owner is None:
        yield
        return
    groups, umask = os.getgroups(), os.umask(0o077)
    try:
        with _allowed_to(owner):
            _take_groups(owner)
            os.setegid(owner.gid)
            os.seteuid(owner.uid)
        _check_ways(owner)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
        os.umask(umask)


@contextmanager
def _allowed_to(owner: Owner) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        what = f"root may not become {owner}: {exc.strerror}"
        raise Unavailable(what, hint="run the command as that user, without root") from None


def _take_groups(owner: Owner) -> None:
    if owner.login is not None:
        os.initgroups(owner.login, owner.gid)
    else:
        os.setgroups([owner.gid])


def _check_ways(owner: Owner) -> None:
    """What root can reach its owner may not: then every look at it would fail, with no word of why."""
    for program in (sys.executable, __file__):
        if not os.access(program, os.R_OK, effective_ids=True):
            hint = "install it where every user may read it, such as /opt/meshbridge"
            raise Unavailable(f"the program cannot be read as {owner}", where=program, hint=hint)
    try:
        owner.home.stat()
    except PermissionError:
        hint = "let that user pass the directories above it (chmod a+x), or move the home"
        raise Unavailable(f"this home cannot be reached as {owner}", where=str(owner.home), hint=hint) from None
    except OSError:
        return


def check_readable(owner: Owner, path: Path, *, allow_dash: bool = False) -> None:
    """For a file that root named and the owner is to read. What else may be wrong with it is for its reader to say.

    Raises:
        InputError: the owner may not read it.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        hint = f"use - and give it on stdin: < {path}" if allow_dash else "copy it to where that user may read it"
        raise InputError(f"it cannot be read as {owner}", where=str(path), hint=hint) from None
    except OSError:
        return


def check_writable(owner: Owner, path: Path) -> None:
    """The same for a file that is to be written, which takes a directory to put it into."""
    try:
        path.parent.stat()
        is_refused = not os.access(path.parent, os.W_OK | os.X_OK)
    except PermissionError:
        is_refused = True
    except OSError:
        return
    if is_refused:
        hint = "name a file in a directory where that user may write"
        raise InputError(f"it cannot be written as {owner}", where=str(path), hint=hint)
