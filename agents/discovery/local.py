"""I/O: the TCP sockets of this machine, from /proc: read only, as far as this user may look."""

from __future__ import annotations

from pathlib import Path

from agents.discovery.proc_tables import inodes, read_proc
from agents.discovery.sockets import Look
from bridge import limits
from inventory.errors import Unavailable

_PROC = Path("/proc")
TABLES = ("net/tcp", "net/tcp6")
_SOCKET = "socket:["


class LocalSockets:
    """Remembers which program holds a socket, so that processes are looked through only for new ones."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._programs: dict[int, str] = {}
        """By inode; empty for one that nobody was found to hold."""

    def look(self) -> Look:
        """Raises Unavailable: this system has no such files."""
        tables = [table for name in TABLES if (table := self._read(self._proc / name)) is not None]
        if not tables:
            raise Unavailable("the sockets of this machine cannot be read", where=str(self._proc / TABLES[0]))
        text = b"\n".join(tables)
        held = inodes(text)
        if held - self._programs.keys():
            self._find_programs(held)
        return read_proc(text, lambda inode: self._programs.get(inode, ""))

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                return file.read(limits.DISCOVER_TEXT_MAX * 4)
        except OSError:
            return None

    def _find_programs(self, held: set[int]) -> None:
        found: dict[int, str] = {}
        for process in self._entries(self._proc):
            if process.name.isdigit():
                for inode in self._sockets_of(process) & held:
                    found.setdefault(inode, self._name(process))
        self._programs = {inode: found.get(inode, "") for inode in held}

    def _sockets_of(self, process: Path) -> set[int]:
        links = (self._target(file) for file in self._entries(process / "fd"))
        return {int(link[len(_SOCKET) : -1]) for link in links if link.startswith(_SOCKET) and link[8:-1].isdigit()}

    def _name(self, process: Path) -> str:
        name = self._read(process / "comm") or b""
        return name.decode("utf-8", "replace").rstrip("\n")

    def _entries(self, folder: Path) -> list[Path]:
        """What is in a folder; nothing when it is another user's or its process has ended."""
        try:
            return list(folder.iterdir())
        except OSError:
            return []

    def _target(self, link: Path) -> str:
        try:
            return str(link.readlink())
        except OSError:
            return ""
