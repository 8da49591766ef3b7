"""Pure: everything wrong with a file, collected before anything is said, so that it is mended in one go.

Every problem says where: file, line of the table it is in when known, and key path (`allow[2].from[0]`).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from inventory.errors import InputError
from inventory.names import shown

PROBLEMS_SHOWN = 50
"""A file can have as many problems as lines; the message stays one screen."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    file: str
    key: str
    """Key path; empty when it is about the file as a whole."""
    what: str
    hint: str = ""
    line: int | None = None
    """Where the table it is in starts, from 1."""

    @property
    def where(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}" if self.key else place

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")


class LoadingError(InputError):
    """A file that cannot be used, with all that is wrong with it. Nothing of it was taken over."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        first = self.problems[0]
        if len(self.problems) == 1:
            super().__init__(first.what, where=first.where, hint=first.hint)
            return
        lines = [f"{len(self.problems)} problems", *(f"  {problem}" for problem in self.problems[:PROBLEMS_SHOWN])]
        if len(self.problems) > PROBLEMS_SHOWN:
            lines.append(f"  and {len(self.problems) - PROBLEMS_SHOWN} more")
        super().__init__("\n".join(lines), where=first.file)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not known: the one that was probably meant, or else all there are."""
    every = sorted(known)
    close = difflib.get_close_matches(word[:64].lower(), every, n=1)
    return f"is {close[0]} meant?" if close else f"known are {', '.join(every)}"


class Problems:
    """The list under construction for one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[Problem] = []

    def add(self, key: str, what: str, *, hint: str = "", line: int | None = None) -> None:
        self.found.append(Problem(self.file, key, what, hint, line))

    def raise_if_any(self) -> None:
        """Raises LoadingError with everything found so far."""
        if self.found:
            raise LoadingError(self.found)


class TableReader:
    """One table of a file. Each reader notes what is wrong and returns None, so that the next field is still read."""

    def __init__(self, table: Mapping[str, Any], path: str, problems: Problems, *, line: int | None = None) -> None:
        self._table = table
        self._path = path
        self._problems = problems
        self._line = line
        self._before = len(problems.found)

    @property
    def is_good(self) -> bool:
        """Whether nothing was noted since this reader was made."""
        return len(self._problems.found) == self._before

    def note(self, key: str, what: str, *, hint: str = "") -> None:
        self._problems.add(f"{self._path}.{key}" if key else self._path, what, hint=hint, line=self._line)

    def refuse_unknown(self, known: Iterable[str]) -> None:
        for key in sorted(self._table.keys() - set(known)):
            self.note("", f"unknown field {shown(key)}", hint=nearest(key, known))

    def has(self, key: str) -> bool:
        return key in self._table

    def parsed(self, key: str, parse: Callable[[str], T], value: str) -> T | None:
        """`parse(value)`, or a note of what it raised."""
        try:
            return parse(value)
        except InputError as exc:
            self.note(key, exc.what, hint=exc.hint)
            return None

    def _value(self, key: str, kind: type[T], described: str, *, required: bool) -> T | None:
        if key not in self._table:
            if required:
                self.note("", f"{key} is missing", hint=f"add {key} = {described}")
            return None
        value = self._table[key]
        # bool is an int to Python and not to anybody who writes a file.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.note(key, f"is not {_article(kind)}", hint=f"write {key} = {described}")
            return None
        return value

    def text(self, key: str, example: str, *, required: bool = False) -> str | None:
        return self._value(key, str, example, required=required)

    def number(self, key: str, example: str, *, required: bool = False) -> int | None:
        return self._value(key, int, example, required=required)

    def table(self, key: str, example: str) -> dict[str, Any] | None:
        return self._value(key, dict, example, required=False)

    def texts(self, key: str, example: str, *, required: bool = False) -> list[str] | None:
        """A list of strings that is not empty; None, and noted, when any part of that fails."""
        items = self._value(key, list, example, required=required)
        if items is None:
            return None
        if not items:
            self.note(key, "is empty: it would mean nobody and nothing", hint=f"write {key} = {example}")
            return None
        wrong = [position for position, item in enumerate(items) if not isinstance(item, str)]
        for position in wrong:
            self.note(f"{key}[{position}]", "is not a string", hint=f"write {key} = {example}")
        return None if wrong else items


def _article(kind: type[Any]) -> str:
    return {str: "a string", int: "a whole number", list: "a list", dict: "a table"}[kind]
