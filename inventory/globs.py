"""Pure: shell-style patterns over names, matched by walking them. User text never becomes a regular expression (C04).

    *    any characters, or none, inside one label
    ?    exactly one character inside one label
    **   as a whole label of a dotted pattern: one or more labels

So `db-*` matches `db-7` and not `db-7.prod`; `*.prod` matches `db.prod`, and neither `prod` nor `a.db.prod`;
`**` matches every name. The value of a label (`K=V`) is one word: its dots separate nothing.

Matching never backtracks further than the last star, so its cost is at most pattern length times name length.
"""

from __future__ import annotations

from dataclasses import dataclass

from inventory.errors import InputError
from inventory.names import MAX_LABEL, MAX_NAME, shown

_WILD = "*?"
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-*?")
_ANY_LABELS = "**"


def _word_matches(pattern: str, word: str) -> bool:
    """Whether `word` matches `pattern` of literals, `*` and `?`."""
    p = w = 0
    star = -1
    resume = 0
    while w < len(word):
        if p < len(pattern) and pattern[p] == "*":
            star, resume = p, w
            p += 1
        elif p < len(pattern) and pattern[p] in ("?", word[w]):
            p, w = p + 1, w + 1
        elif star >= 0:
            resume += 1
            p, w = star + 1, resume
        else:
            return False
    return pattern[p:].strip("*") == ""


def _labels_match(pattern: tuple[str, ...], labels: list[str]) -> bool:
    """As `_word_matches`, one level up: labels for characters, `**` for one or more of them."""
    p = n = 0
    star = -1
    resume = 0
    while n < len(labels):
        if p < len(pattern) and pattern[p] == _ANY_LABELS:
            star, resume = p, n + 1
            p, n = p + 1, n + 1
        elif p < len(pattern) and _word_matches(pattern[p], labels[n]):
            p, n = p + 1, n + 1
        elif star >= 0:
            resume += 1
            p, n = star + 1, resume
            if resume > len(labels):
                return False
        else:
            return False
    return p == len(pattern)


@dataclass(frozen=True, slots=True)
class Glob:
    """A parsed pattern in canonical form. `dotted` patterns are matched label by label."""

    text: str
    dotted: bool = False

    @property
    def prefix(self) -> str:
        """What every match begins with; the whole pattern when it has no wildcard."""
        return next((self.text[:i] for i, c in enumerate(self.text) if c in _WILD), self.text)

    @property
    def is_literal(self) -> bool:
        return not any(c in self.text for c in _WILD)

    def matches(self, name: str) -> bool:
        """Whether the canonical name (or label value) is one that this pattern means."""
        if self.is_literal:
            return self.text == name
        if not self.dotted:
            return _word_matches(self.text, name)
        return _labels_match(tuple(self.text.split(".")), name.split("."))


def parse_name_glob(text: str, what: str, *, dotted: bool) -> Glob:
    """A pattern over names: dotted for hosts and clients, one label for services and sites.

    Raises:
        InputError: a character that no name has, an empty or overlong label, `**` that is not a label of its own.
    """
    canonical = text.lower() if text.isascii() else text
    canonical = canonical[:-1] if canonical.endswith(".") else canonical
    reason = _why_not_glob(canonical, dotted)
    if reason is not None:
        raise InputError(f"{shown(text)} is not a pattern for a {what}: {reason}")
    return Glob(canonical, dotted)


def _why_not_glob(text: str, dotted: bool) -> str | None:
    if len(text) > MAX_NAME:
        return f"it has {len(text)} characters, at most {MAX_NAME} are allowed"
    labels = text.split(".")
    if len(labels) > 1 and not dotted:
        return "it must be one label, without dots"
    for label in labels:
        if not label:
            return "a label is empty"
        if len(label) > MAX_LABEL:
            return f"a label has {len(label)} characters, at most {MAX_LABEL} are allowed"
        if not _NAME_CHARACTERS.issuperset(label):
            return "patterns use only a-z, 0-9, -, and the wildcards * and ? (regular expressions are not supported)"
        if label[0] == "-" or label[-1] == "-":
            return "labels neither start nor end with -"
        if _ANY_LABELS in label and not (dotted and label == _ANY_LABELS):
            return "** stands for whole labels of a dotted name, so it must be a label of its own"
    return None


class GlobMap:
    """Numbers under patterns; `find` gives the numbers of every pattern that matches a name.

    Literals are one dictionary look-up and the rest is reached by its literal prefix, so a look-up costs about the
    length of the name, not the number of patterns.
    """

    __slots__ = ("_exact", "_lengths", "_prefixed")

    def __init__(self) -> None:
        self._exact: dict[str, int] = {}
        self._prefixed: dict[str, list[tuple[Glob, int]]] = {}
        self._lengths: list[int] = []

    def add(self, glob: Glob, number: int) -> None:
        """Put a number under a pattern that has none yet."""
        if glob.is_literal:
            self._exact[glob.text] = number
            return
        self._prefixed.setdefault(glob.prefix, []).append((glob, number))
        if len(glob.prefix) not in self._lengths:
            self._lengths = sorted([*self._lengths, len(glob.prefix)])

    def find(self, name: str) -> list[int]:
        found = [self._exact[name]] if name in self._exact else []
        for length in self._lengths:
            if length > len(name):
                break
            for glob, number in self._prefixed.get(name[:length], ()):
                if glob.matches(name):
                    found.append(number)
        return found
