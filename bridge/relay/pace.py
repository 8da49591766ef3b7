"""I/O: how fast a TCP connection takes bytes, and so how many may be handed to it ahead of time.

Whatever the kernel holds unsent, and whatever is encrypted, nothing can overtake. On a link of 64 kbit/s a megabyte of
it is two minutes, on a fast one it is nothing. So the kernel is given PACE_AHEAD seconds' worth and no more.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import NamedTuple

from bridge import limits

_INFO_SIZE = 216
_PROGRESS = struct.Struct("=120xQ16xI52xQQ")
"""Of struct tcp_info (linux/tcp.h): bytes acknowledged; not sent yet; sent, and of those bytes sent again."""
_SO_MAX_PACING_RATE = 47
_UNLIMITED = 0xFFFFFFFF
_FASTER = 1.25


class _Look(NamedTuple):
    at: float
    arrived: int
    unsent: int
    sent: int
    again: int


class Pace:
    """One connection's `share`: the bytes that may wait unsent. It begins small and grows with what arrives."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.share = limits.SHARE_MAX
        self.flags = 0
        """For send: while the link is not known to be fast, the kernel must not add to a segment that waits already.
        It does not count that against what may wait, and lets one grow to 64 KiB."""
        self._sock = sock
        self._at = now
        self._given = 0
        self._limit = 0.0
        """Bytes per second that the kernel was told to send at most; 0: as it likes."""
        first = self._ask(now) if sock.family in (socket.AF_INET, socket.AF_INET6) else None
        self._looks = [first] if first else []
        """As long as the socket was full each time; empty when there is nothing to be asked."""
        if first:
            self._set(limits.SHARE_FIRST)

    def is_due(self, now: float, given: int) -> bool:
        """Whether `look` would say something new. Before it is known that the link is fast, a lot that went out says
        so at once."""
        passed = now - self._at
        return passed >= limits.PACE_INTERVAL or (self.share < (given - self._given) >> 4 and passed > limits.PACE_SOON)

    def look(self, now: float, given: int, *, full: bool) -> None:
        """Judge the time since the last look, or while there was always enough to send, since PACE_LOOKS looks ago:
        what was lost and is sent again arrives in bursts.

        Args:
            given: bytes that the kernel took so far.
            full: whether it takes no more just now. If it does, the link may be faster than it had to be; unless it
                was not fast before and has not sent yet what it took: streams that may leave little here wait then.
        """
        seen = self._ask(now) if self._looks and now > self._at else None
        if seen is None:
            return
        full = full or (self.share < limits.SHARE_MAX and seen.unsent > 0)
        since = self._looks[0 if full else -1]
        rate = (seen.arrived - since.arrived) / (now - since.at)
        share = _share(rate)
        if share > self.share or (full and share < self.share):
            self._set(share)
        if not full:
            self._hold_to(0.0)  # there is less to send than that anyway
        elif len(self._looks) == limits.PACE_LOOKS:
            self._brake(rate, seen.again - since.again, seen.sent - since.sent)
        self._at, self._given = now, given
        self._looks = [*self._looks[1 - limits.PACE_LOOKS :], seen] if full else [seen]

    def _ask(self, now: float) -> _Look | None:
        try:
            info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_SIZE)
            return _Look(now, *_PROGRESS.unpack_from(info))
        except (OSError, struct.error):  # an old kernel: every link counts as fast
            return None

    def _set(self, share: int) -> None:
        """The kernel then reports the socket writable, and takes bytes, only while less than this waits unsent."""
        self.share = share
        self.flags = 0 if share == limits.SHARE_MAX else socket.MSG_EOR
        with contextlib.suppress(OSError):
            unsent = max(share, limits.UNSENT_MIN)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)
        if share == limits.SHARE_MAX:
            self._hold_to(0.0)

    def _brake(self, rate: float, again: int, sent: int) -> None:
        """BBR may remember a thin link as a fast one from the time when there was little to send; it then sends most
        of everything twice. Send what arrives and no more, and from there on try a little more each time."""
        if again > sent * limits.PACE_LOSS_MAX:
            self._hold_to(rate)
        elif self._limit:
            faster = self._limit * _FASTER
            self._hold_to(faster if faster < 4 * rate else 0.0)

    def _hold_to(self, rate: float) -> None:
        if rate != self._limit:
            self._limit = rate
            with contextlib.suppress(OSError, OverflowError):
                limit = max(int(rate), limits.PACE_RATE_MIN) if rate else _UNLIMITED
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=I", limit))


def _share(rate: float) -> int:
    """A power of two, so that small changes change nothing."""
    ahead = min(max(int(rate * limits.PACE_AHEAD), limits.SHARE_MIN), limits.SHARE_MAX)
    return min(1 << (ahead - 1).bit_length(), limits.SHARE_MAX)
