"""I/O: how far a home has seen the authority log go, so that one that went back is noticed after a restart (F34).

seen.json            what the gateway of this home has verified and kept
operator-seen.json   what commands have seen in a registry elsewhere; the gateway may be behind that, and starts
                     without a registry from what it kept, so it is a file of its own
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agents.knowledge.verified_log import VerifiedLog
from inventory.authority import AuthorityState, refuse_rollback
from inventory.errors import InputError
from inventory.home import read_file, write_file
from inventory.strict_json import decode

SEEN_FILE = "seen.json"
OPERATOR_SEEN_FILE = "operator-seen.json"
_SEEN_MAX_BYTES = 1024


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the log was seen."""

    number: int
    head: str


def read_seen(home: Path, name: str = SEEN_FILE) -> Seen | None:
    """None when there is none yet. Raises MeshError when the file is damaged or cannot be read."""
    path = home / name
    if not path.exists():
        return None
    try:
        return decode(read_file(path), Seen, max_bytes=_SEEN_MAX_BYTES, what=name)
    except InputError as exc:
        hint = "it says how far the log went; put it back from a backup, or remove it if you trust the registry"
        raise InputError(exc.what, where=str(path), hint=exc.hint or hint) from None


def furthest_seen(home: Path) -> Seen | None:
    """By the gateway or by a command. Raises as `read_seen`."""
    seen = [found for name in (SEEN_FILE, OPERATOR_SEEN_FILE) if (found := read_seen(home, name)) is not None]
    return max(seen, key=lambda found: found.number, default=None)


def write_seen(home: Path, state: AuthorityState, name: str = SEEN_FILE) -> None:
    """Raises MeshError."""
    write_file(home / name, msgspec.json.encode(Seen(state.number, state.head)))


def refuse_older(log: VerifiedLog, seen: Seen | None) -> None:
    """Whether a log that was read from its beginning, and collected, continues what was seen before it was read.

    Raises:
        AuthorityError: the registry went back.
    """
    if seen is not None:
        refuse_rollback(log.unkept, number=seen.number, head=seen.head)
