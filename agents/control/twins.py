"""Pure: notices that two machines live under one identity: a cloned VM, a disk restored while its first owner runs.

Of two sessions of one host the gateway keeps the one whose agent started later, so one agent alone is never sent away:
whatever it opens next has the same epoch or a later one. An agent that comes after a later one was here is a second
one. So is one of the same epoch (the memory was cloned as well) that comes from another address while the first is
here. Each of these is a turn. A few may be what was still on its way when an agent started anew, or a laptop between
two networks; two machines take turns for as long as both run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from bridge import limits


@dataclass(slots=True)
class _Seen:
    key: str
    epoch: int
    address: str
    turns: deque[float] = field(default_factory=lambda: deque(maxlen=limits.TWIN_TURNS + 1))
    addresses: list[str] = field(default_factory=list)
    """Of the two who took the last turn."""


class Twins:
    """What a gateway saw of each host's agents. Times are of one clock that only goes forward."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def came(self, host: str, key: str, epoch: int, remote: str, *, is_here: bool, now: float) -> bool:
        """An agent of the host says hello; whether it is just now that there seem to be two.

        Args:
            key: of its identity; with another one it was enrolled again, and is the only one of it so far.
            remote: `ADDR:PORT`; the port is another one each time.
            is_here: there is a session of the host already.
        """
        address = remote.rpartition(":")[0]
        seen = self._seen.get(host)
        if seen is None or seen.key != key:
            seen = self._seen[host] = _Seen(key, epoch, address)
        knew = _are_two(seen, now)
        if epoch < seen.epoch or (epoch == seen.epoch and is_here and address != seen.address):
            seen.turns.append(now)
            seen.addresses = sorted({seen.address, address})
        if epoch >= seen.epoch:
            seen.epoch, seen.address = epoch, address
        return not knew and _are_two(seen, now)

    def found(self, now: float) -> Mapping[str, list[str]]:
        """Hosts that run twice, with the addresses that they come from."""
        return {host: seen.addresses for host, seen in self._seen.items() if _are_two(seen, now)}


def _are_two(seen: _Seen, now: float) -> bool:
    return sum(at > now - limits.TWIN_WATCH for at in seen.turns) > limits.TWIN_TURNS
