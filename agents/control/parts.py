"""Pure: an update that is too large for one message goes out in parts, and counts only when all of them are there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from agents.control.messages import Update
from bridge import limits
from bridge.errors import PeerError

_FEW = 200
"""With so few items an update is never too large."""
_MORE = len('"more":true,')


def split(update: Update, most: int = limits.UPDATE_PART_BYTES) -> list[Update]:
    """The update in parts of at most `most` bytes each, as far as single items allow. All but the last say `more`."""
    items = _items(update)
    if len(items) < 2 or (len(items) <= _FEW and most >= limits.UPDATE_PART_BYTES):
        return [update]
    if len(msgspec.json.encode(update)) + _MORE <= most:
        return [update]
    middle = len(items) // 2
    first, last = (_with(update, half) for half in (items[:middle], items[middle:]))
    return [*(msgspec.structs.replace(part, more=True) for part in split(first, most)), *split(last, most)]


def _items(update: Update) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name in ("entries", "dropped", "leaves"):
        found += [(name, item) for item in getattr(update, name) or ()]
    for name in ("presence", "reported", "health"):
        found += [(name, item) for item in getattr(update, name).items()]
    return found


def _with(update: Update, items: Sequence[tuple[str, Any]]) -> Update:
    """`update` with these items only."""

    def of(name: str) -> tuple[Any, ...]:
        return tuple(item for kind, item in items if kind == name)

    return Update(
        revision=update.revision,
        full=update.full,
        entries=of("entries"),
        dropped=of("dropped"),
        leaves=None if update.leaves is None else of("leaves"),
        presence=dict(of("presence")),
        reported=dict(of("reported")),
        health=dict(of("health")),
    )


class Parts:
    """The receiving end. One per control stream."""

    def __init__(self) -> None:
        self._parts: list[Update] = []

    def add(self, part: Update) -> Update | None:
        """The whole update with its last part, None before.

        Raises:
            PeerError: it has too many parts.
        """
        if not part.more and not self._parts:
            return part
        self._parts.append(part)
        if part.more:
            if len(self._parts) >= limits.UPDATE_PARTS_MAX:
                raise PeerError(f"an update of more than {limits.UPDATE_PARTS_MAX} parts")
            return None
        parts, self._parts = self._parts, []
        return _joined(parts)


def _joined(parts: Sequence[Update]) -> Update:
    leaves = [part.leaves for part in parts if part.leaves is not None]
    return Update(
        revision=parts[-1].revision,
        full=parts[0].full,
        entries=tuple(entry for part in parts for entry in part.entries),
        dropped=tuple(key for part in parts for key in part.dropped),
        leaves=tuple(leaf for some in leaves for leaf in some) if leaves else None,
        presence={key: value for part in parts for key, value in part.presence.items()},
        reported={key: value for part in parts for key, value in part.reported.items()},
        health={key: value for part in parts for key, value in part.health.items()},
    )
