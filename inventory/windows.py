"""Pure: weekly time windows, `when = "Mon-Fri 22:00-04:00 Europe/Berlin"`. The only thing read is the zone database.

    WINDOW = [DAYS] HH:MM-HH:MM [ZONE]
    DAYS   = "daily", or days and ranges of days joined by commas: Mon-Fri   Sat,Sun   Mon-Wed,Fri   Fri-Mon
    ZONE   = "UTC" or an IANA name with an area, Europe/Berlin; UTC when omitted

The start is inside and the end is not. An end that is not after the start lies on the next day, and such a window
belongs to the day on which it starts: `Fri 22:00-04:00` ends on Saturday morning. `24:00` is the end of the day.
Start and end are moments on the clock of the zone, so a night in which the clock changes is an hour longer or
shorter. A time that occurs twice means its first occurrence; one that is skipped means the moment of the change.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from functools import lru_cache
from zoneinfo import ZoneInfo

from inventory.errors import InputError
from inventory.names import shown

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 24 * 60

_TIMES = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})", re.ASCII)
# An area is asked for because bare names such as `localtime` differ from machine to machine.
_ZONE = re.compile(r"UTC|(?!posix/|right/)[A-Za-z_]{1,30}(?:/[A-Za-z0-9_+-]{1,30}){1,2}", re.ASCII)
_EXAMPLE = 'write it like "Mon-Fri 22:00-04:00 Europe/Berlin"'


def _at(day: datetime.date, minute: int, zone: ZoneInfo) -> float:
    """Unix seconds at which the zone's clock shows this minute of this day (1440: midnight after it)."""
    local = datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(minutes=minute)
    before = local.replace(tzinfo=zone).timestamp()
    after = local.replace(tzinfo=zone, fold=1).timestamp()
    if before <= after:
        # An ordinary time, or one that occurs twice: then `before` is the first.
        return before
    # Skipped: with the offsets of before and after the change the same digits give moments on both sides of it.
    return _change_between(after, before, zone)


def _change_between(low: float, high: float, zone: ZoneInfo) -> float:
    """The second at which the zone's offset changes, given one before and one after it."""
    first, last = int(low), int(high)
    old = _offset(first, zone)
    while last - first > 1:
        middle = (first + last) // 2
        if _offset(middle, zone) == old:
            first = middle
        else:
            last = middle
    return float(last)


def _offset(at: float, zone: ZoneInfo) -> datetime.timedelta | None:
    return datetime.datetime.fromtimestamp(at, zone).utcoffset()


@dataclass(frozen=True, slots=True)
class Window:
    """A parsed window. `days` are those on which it starts, Monday is 0; `end` may pass 1440 into the next day."""

    days: frozenset[int]
    start: int
    end: int
    zone: ZoneInfo

    def _spans(self, now: float) -> list[tuple[float, float]]:
        """Every stretch from yesterday's to the one of today in a week: enough to hold `now` and the next edge."""
        today = datetime.datetime.fromtimestamp(now, self.zone).date()
        days = [today + datetime.timedelta(days=ahead) for ahead in range(-2, 9)]
        starting = [day for day in days if day.weekday() in self.days]
        return [(_at(day, self.start, self.zone), _at(day, self.end, self.zone)) for day in starting]

    def contains(self, now: float) -> bool:
        """Whether the unix time `now` lies in the window.

        Raises:
            ValueError, OverflowError, OSError: `now` is no time that a calendar has.
        """
        return any(start <= now < end for start, end in self._spans(now))

    def next_edge(self, now: float) -> float:
        """The first moment after `now` at which a stretch begins or ends, in unix seconds.

        Until then `contains` does not change. It may be early, never late: where one stretch ends as another begins
        nothing changes, and when the week's only stretch falls into skipped time the answer is a week ahead.
        """
        edges = (edge for span in self._spans(now) if span[0] < span[1] for edge in span if edge > now)
        return min(edges, default=now + 7 * 86400)


def _parse_day(text: str, whole: str) -> int:
    if text.lower() not in DAYS:
        raise InputError(f"{shown(whole)} is not a time window: {shown(text)} is not a day", hint=_EXAMPLE)
    return DAYS.index(text.lower())


def _parse_days(text: str, whole: str) -> frozenset[int]:
    if text.lower() == "daily":
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = _parse_day(first, whole)
        end = _parse_day(last, whole) if dash else start
        days.update((start + i) % 7 for i in range((end - start) % 7 + 1))
    return frozenset(days)


def _parse_times(text: str, whole: str) -> tuple[int, int]:
    found = _TIMES.fullmatch(text)
    if found is None:
        raise InputError(f"{shown(whole)} is not a time window: {shown(text)} is not HH:MM-HH:MM", hint=_EXAMPLE)
    hours = [int(found[1]), int(found[3])]
    minutes = [int(found[2]), int(found[4])]
    start, end = (hour * 60 + minute for hour, minute in zip(hours, minutes, strict=True))
    if max(minutes) > 59 or start >= MINUTES_PER_DAY or end > MINUTES_PER_DAY:
        raise InputError(f"{shown(whole)} is not a time window: there is no such time of day", hint=_EXAMPLE)
    if start == end:
        raise InputError(
            f"{shown(whole)} is not a time window: it starts and ends at the same time",
            hint="write 00:00-24:00 for the whole day",
        )
    return start, end if end > start else end + MINUTES_PER_DAY


def _parse_zone(text: str, whole: str) -> ZoneInfo:
    if _ZONE.fullmatch(text) is None:
        raise InputError(
            f"{shown(whole)} is not a time window: {shown(text)} is not a time zone",
            hint="name it with its area, like Europe/Berlin, or write UTC",
        )
    try:
        return ZoneInfo(text)
    except (LookupError, ValueError, OSError):
        raise InputError(
            f"{shown(whole)} is not a time window: the time zone {shown(text)} is not known on this machine",
            hint="name it with its area, like Europe/Berlin; update tzdata if the zone is new",
        ) from None


@lru_cache(maxsize=1024)
def parse_window(text: str) -> Window:
    """The window that `text` describes, in the grammar above.

    Raises:
        InputError: not of that form, or a zone that this machine's zone database does not have.
    """
    words = text.split()
    has_days = bool(words) and not words[0][:1].isdigit()
    days = _parse_days(words.pop(0), text) if has_days else frozenset(range(7))
    if not 1 <= len(words) <= 2:
        raise InputError(f"{shown(text)} is not a time window: expected DAYS HH:MM-HH:MM ZONE", hint=_EXAMPLE)
    start, end = _parse_times(words[0], text)
    return Window(days, start, end, _parse_zone(words[1] if len(words) == 2 else "UTC", text))
