"""Pure: records and log events as one JSON line each, however hostile the text in them (C44).

A line is printable ASCII, at most LOG_LINE_MAX bytes with its newline, and valid JSON. Text from elsewhere is escaped
before it becomes JSON, so that it is harmless in a terminal even after a reader has decoded the JSON. Nothing here
ever raises for what a value contains.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridge import limits

_CUTS = (limits.FOREIGN_TEXT_MAX, 100, 48, 24)
_INT_MAX = 2**63 - 1


def plain(text: str, most: int = limits.FOREIGN_TEXT_MAX) -> str:
    """Foreign text as at most `most` printable ASCII characters; what does not fit ends in `...`."""
    short = text[:most]
    if not (short.isascii() and short.isprintable()):
        short = short.encode("unicode_escape").decode("ascii")
    if len(text) > most or len(short) > most:
        return short[: most - 3] + "..."
    return short


def json_line(fields: Mapping[str, object]) -> bytes:
    """One line ending in a newline. Long values are cut harder until it fits; if there are too many fields, the last
    ones are left out and `"cut": true` says so.
    """
    for most in _CUTS:
        line = _encode({plain(key, most): _value(value, most) for key, value in fields.items()})
        if len(line) <= limits.LOG_LINE_MAX:
            return line
    kept: dict[str, object] = {"cut": True}
    for key, value in fields.items():
        longer = {**kept, plain(key, _CUTS[-1]): _value(value, _CUTS[-1])}
        if len(_encode(longer)) > limits.LOG_LINE_MAX:
            break
        kept = longer
    return _encode(kept)


def _encode(fields: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(fields) + b"\n"


def _value(value: object, most: int) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _INT_MAX else "a number of more than 63 bits"
    if isinstance(value, str):
        return plain(value, most)
    try:
        return plain(str(value), most)
    except Exception:  # a foreign __str__ may raise anything, and a log line is no place to fail
        return f"unprintable {type(value).__name__}"[:most]
