"""Pure: bytes of a TOML file to tables, with every way in which they can be unfit told apart (H31).

A byte order mark at the start and Windows line ends are accepted. Size and nesting are checked before the parser
runs, because a parser that recurses must not be the thing that finds out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import tomli

from inventory.loading.problems import LoadingError, Problem
from inventory.names import shown

FILE_MAX_BYTES = 10 * 1024 * 1024
"""A file written by people; 20,000 rules are under 5 MiB."""
NESTING_MAX = 32
"""Tables and lists in each other. Ours need three."""

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
# The scan jumps from one of these to the next; strings and comments are stepped over whole.
_INTERESTING = re.compile(r"[\[\]{}\"'#]")
_STRING_STOPS = re.compile(r"[\"\\\n]")
_HEADER = re.compile(r"^[ \t]*\[\[[ \t]*[\"']?([A-Za-z0-9_-]+)[\"']?[ \t]*\]\]", re.MULTILINE | re.ASCII)


@dataclass(frozen=True, slots=True)
class TomlText:
    table: dict[str, Any]
    source: str
    """The text as parsed: without a byte order mark, line ends untouched."""

    def lines_of(self, name: str, count: int) -> list[int | None]:
        """The lines on which the `count` tables `[[name]]` start; None each when the text does not show it plainly."""
        lines: list[int | None] = []
        line, position = 1, 0
        for header in _HEADER.finditer(self.source):
            line += self.source.count("\n", position, header.start())
            position = header.start()
            if header[1] == name:
                lines.append(line)
        return lines if len(lines) == count else [None] * count


def _string_end(text: str, start: int) -> int:
    """Where the string that opens at `start` ends, or -1: it does not, and the parser will say so."""
    quote = text[start]
    if text.startswith(quote * 3, start):
        position = start + 3
        if quote == "'":
            end = text.find("'''", position)
            return end + 3 if end >= 0 else -1
        while (stop := _STRING_STOPS.search(text, position)) is not None:
            position = stop.end()
            if stop[0] == "\\":
                position += 1
            elif text.startswith('"""', stop.start()):
                return stop.start() + 3
        return -1
    if quote == "'":
        end = text.find("'", start + 1)
        return end + 1 if end >= 0 and text.find("\n", start + 1, end) < 0 else -1
    position = start + 1
    while (stop := _STRING_STOPS.search(text, position)) is not None:
        if stop[0] == "\n":
            return -1
        if stop[0] == '"':
            return stop.end()
        position = stop.end() + 1
    return -1


def _is_too_deep(text: str) -> bool:
    """Whether brackets outside strings and comments nest too deep. One pass, forwards only."""
    if text.count("[") + text.count("{") <= NESTING_MAX:
        return False
    depth = position = 0
    while (token := _INTERESTING.search(text, position)) is not None:
        position = token.end()
        match token[0]:
            case "[" | "{":
                depth += 1
                if depth > NESTING_MAX:
                    return True
            case "]" | "}":
                depth -= 1
            case "#":
                position = text.find("\n", position)
            case _:
                position = _string_end(text, token.start())
        if position < 0:
            return False
    return False


def parse_toml(data: bytes, file: str) -> TomlText:
    """The file's tables.

    Args:
        data: the file's content, at most FILE_MAX_BYTES.
        file: its name, for messages.

    Raises:
        LoadingError: too large, not UTF-8, nested too deep, or not TOML; with the line where the parser knows it.
    """

    def bad(what: str, hint: str = "") -> LoadingError:
        return LoadingError([Problem(file, "", what, hint)])

    if len(data) > FILE_MAX_BYTES:
        raise bad(f"the file is larger than {FILE_MAX_BYTES // (1024 * 1024)} MiB", "split the estate, or use globs")
    if data.startswith(_UTF16):
        raise bad("the file is UTF-16", "save it as UTF-8")
    try:
        source = data.removeprefix(_BOM).decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise bad(f"the file is not UTF-8 (at line {line})", "save it as UTF-8") from None
    if _is_too_deep(source):
        raise bad(f"tables and lists are nested deeper than {NESTING_MAX} levels")
    try:
        return TomlText(tomli.loads(source), source)
    except RecursionError:
        raise bad("a key has too many parts") from None
    except ValueError as exc:
        raise bad(f"not TOML: {shown(str(exc))[1:-1]}", _toml_hint(str(exc), source)) from None


def _toml_hint(message: str, source: str) -> str:
    if "overwrite" in message:
        return "a key or table is given twice"
    if "\r" in source.replace("\r\n", ""):
        return "a line ends with a carriage return alone"
    return ""
