"""Pure: counting the names and extensions of a certificate without walking into them.

A full parser makes an object of every name; 5,000 names fit into 16 KiB. This looks only at tags and lengths (X.690,
definite lengths), stops at the first count over its limit, and decides nothing about what the names say (C27).
"""

from __future__ import annotations

from collections.abc import Iterator

_SEQUENCE = 0x30
_OCTET_STRING = 0x04
_EXTENSIONS = 0xA3
_SUBJECT_ALTERNATIVE_NAME = bytes.fromhex("0603551d11")


def _element(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """(tag, start of content, end of content) of the element at `at`. Raises ValueError."""
    if at + 2 > end:
        raise ValueError("cut short")
    tag, length, start = data[at], data[at + 1], at + 2
    if tag & 0x1F == 0x1F or length == 0x80:
        raise ValueError("not DER")
    if length > 0x80:
        octets = length & 0x7F
        if octets > 4 or start + octets > end:
            raise ValueError("bad length")
        length = int.from_bytes(data[start : start + octets], "big")
        start += octets
    if start + length > end:
        raise ValueError("cut short")
    return tag, start, start + length


def _children(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    while start < end:
        tag, content, stop = _element(data, start, end)
        yield tag, content, stop
        start = stop


def _sequence(data: bytes, at: int, end: int) -> tuple[int, int]:
    tag, start, stop = _element(data, at, end)
    if tag != _SEQUENCE:
        raise ValueError("not a sequence")
    return start, stop


def check_counts(certificate: bytes, *, extensions_max: int, names_max: int) -> None:
    """Whether a certificate is small enough in count to be parsed.

    Raises:
        ValueError: it is not DER of a certificate's shape, or has too many extensions or alternative names.
    """
    start, end = _sequence(certificate, 0, len(certificate))
    start, end = _sequence(certificate, start, end)
    for tag, content, stop in _children(certificate, start, end):
        if tag == _EXTENSIONS:
            first, last = _sequence(certificate, content, stop)
            _check_extensions(certificate, first, last, extensions_max, names_max)


def _check_extensions(data: bytes, start: int, end: int, extensions_max: int, names_max: int) -> None:
    for count, (_, content, stop) in enumerate(_children(data, start, end), 1):
        if count > extensions_max:
            raise ValueError(f"more than {extensions_max} extensions")
        if not data.startswith(_SUBJECT_ALTERNATIVE_NAME, content, stop):
            continue
        for tag, value, value_end in _children(data, content, stop):
            if tag == _OCTET_STRING:
                first, last = _sequence(data, value, value_end)
                if any(names > names_max for names, _ in enumerate(_children(data, first, last), 1)):
                    raise ValueError(f"more than {names_max} names")
