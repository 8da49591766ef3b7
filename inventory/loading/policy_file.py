"""I/O: a policy file to rules. Reading is one function; the rest is pure. Either every rule is good or none is taken.

    [[allow]]                        or [[deny]]; any number of each, in any order
    name  = "billing reads"          required, unique in the file
    from  = ["host:billing-*"]       required, not empty; subjects as in inventory/policy_rules.py
    to    = ["ledger"]               required, not empty; targets as there
    user  = ["batch"]                local users; everybody when left out
    when  = "Mon-Fri 22:00-04:00 Europe/Berlin"    as in inventory/windows.py; always when left out
    until = 2027-03-31               the last day, UTC; a date or a string
    mode  = "enforce"                or "observe"

A file without rules is a policy that allows nothing.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from inventory.errors import InputError
from inventory.loading.problems import Problems, TableReader, nearest
from inventory.loading.reading import read_bounded
from inventory.loading.toml_text import FILE_MAX_BYTES, TomlText, parse_toml
from inventory.names import shown
from inventory.policy_rules import (
    Effect,
    Mode,
    Rule,
    parse_rule_name,
    parse_subject,
    parse_target,
    parse_until,
    parse_user,
)
from inventory.windows import parse_window

RULES_MAX = 20_000
FIELDS = ("name", "from", "to", "user", "when", "until", "mode")
EFFECTS: tuple[Effect, ...] = ("allow", "deny")
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    rules: tuple[Rule, ...]
    source: str
    """The text the rules were read from, as it is stored and hashed."""


def load_policy(path: Path) -> PolicyFile:
    """Read and parse. Raises InputError when the file cannot be read, and as `parse_policy` does."""
    return parse_policy(read_bounded(path, FILE_MAX_BYTES), file=str(path))


def parse_policy(data: bytes, *, file: str = "policy.toml") -> PolicyFile:
    """The rules in a policy file.

    Raises:
        LoadingError: with every problem, each with its file, line and key path.
    """
    problems = Problems(file)
    text = parse_toml(data, file)
    for key in sorted(text.table.keys() - set(EFFECTS)):
        problems.add(shown(key)[1:-1], "unknown table", hint=nearest(key, EFFECTS))
    tables = _tables(text, problems)
    if len(tables) > RULES_MAX:
        what = f"the policy has {len(tables)} rules, at most {RULES_MAX} are allowed"
        problems.add("", what, hint="say more with globs and labels")
        problems.raise_if_any()
    rules = _rules(tables, problems)
    problems.raise_if_any()
    return PolicyFile(tuple(rules), text.source)


@dataclass(frozen=True, slots=True)
class _RuleTable:
    effect: Effect
    path: str
    line: int | None
    fields: Mapping[str, Any]


def _tables(text: TomlText, problems: Problems) -> list[_RuleTable]:
    """Every `[[allow]]` and `[[deny]]`, with where it stands."""
    tables = []
    for effect in EFFECTS:
        items = text.table.get(effect, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            problems.add(effect, "is not a list of tables", hint=f"start each rule with [[{effect}]]")
            continue
        lines = text.lines_of(effect, len(items))
        for position, (item, line) in enumerate(zip(items, lines, strict=True)):
            tables.append(_RuleTable(effect, f"{effect}[{position}]", line, item))
    return tables


def _rules(tables: list[_RuleTable], problems: Problems) -> list[Rule]:
    named: dict[str, str] = {}
    rules = []
    for table in tables:
        reader = TableReader(table.fields, table.path, problems, line=table.line)
        rule = _rule(reader, table, named)
        if rule is not None:
            rules.append(rule)
    return rules


def _rule(reader: TableReader, table: _RuleTable, named: dict[str, str]) -> Rule | None:
    """The rule, or None when something was noted. Every field is looked at either way."""
    reader.refuse_unknown(FIELDS)
    name = _name(reader, table.path, named)
    mode = _mode(reader)
    sources = _each(reader, "from", parse_subject, '["host:billing-*"]', required=True)
    to = _each(reader, "to", parse_target, '["ledger"]', required=True)
    user = _each(reader, "user", parse_user, '["batch"]', required=False)
    when = reader.text("when", '"Mon-Fri 22:00-04:00 Europe/Berlin"')
    if when is not None:
        reader.parsed("when", parse_window, when)
    until = _until(reader, table.fields.get("until"))
    if not reader.is_good:
        return None
    try:
        return Rule(
            name=name, effect=table.effect, sources=sources, to=to, user=user, when=when, until=until, mode=mode
        )
    except InputError as exc:
        reader.note("", exc.what, hint=exc.hint)
        return None


def _name(reader: TableReader, path: str, named: dict[str, str]) -> str:
    name = reader.text("name", '"what it is for"', required=True)
    if name is None or reader.parsed("name", parse_rule_name, name) is None:
        return ""
    # Names that differ in case only would be told apart by no reader of a log.
    first = named.setdefault(name.casefold(), path)
    if first != path:
        reader.note("name", f"{shown(name)} is the name of {first} already", hint="give every rule its own name")
    return name


def _mode(reader: TableReader) -> Mode:
    text = reader.text("mode", '"observe"')
    mode = next((known for known in MODES if known == text), None)
    if text is not None and mode is None:
        reader.note("mode", f"unknown mode {shown(text)}", hint=nearest(text, MODES))
    return mode or "enforce"


def _each(
    reader: TableReader, key: str, parse: Callable[[str], Any], example: str, *, required: bool
) -> tuple[str, ...]:
    """A list of strings, each of which `parse` accepts."""
    items = reader.texts(key, example, required=required) or []
    for position, item in enumerate(items):
        reader.parsed(f"{key}[{position}]", parse, item)
    return tuple(items)


def _until(reader: TableReader, value: object) -> str | None:
    """A TOML date or a string. A date with a time is refused: the day is what counts, and it is a day in UTC."""
    if value is None:
        return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = value.isoformat()
    if not isinstance(value, str):
        reader.note("until", "is not a date", hint="write until = 2027-03-31")
        return None
    reader.parsed("until", parse_until, value)
    return value
