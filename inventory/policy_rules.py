"""Pure: one rule of the policy, and the grammar of its subjects and targets.

Subjects (`from`), any one of which is enough:

    host:GLOB      a host by its name, label by label          host:billing-*   host:*.prod   host:**
    label:K=V      a host by a signed label; V may be a glob   label:role=batch label:os=aix*
    site:GLOB      a host by its signed site                   site:dc1
    service:GLOB   a host that its signed entry allows to serve such a service
    client:GLOB    an agentless client, for which only a gateway may speak

Targets (`to`), any one of which is enough:

    GLOB           a service by its name                       ledger           card-*
    label:K=V      a service by its instances' labels: an allow needs it on all of them, a deny on any one

Globs are those of `inventory.globs`. Everything is folded to lower case here, once, as names are everywhere else
(C03), label keys and values included. A key or value is 1 to 63 of [a-z0-9._-], starting with a letter or digit.

This file holds no decision: see bridge/policy/decide.py.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal

import msgspec

from inventory.errors import InputError
from inventory.globs import Glob, parse_name_glob
from inventory.model import Client, Host, Instance
from inventory.names import MAX_LABEL, parse_host, parse_service, parse_site, shown

Effect = Literal["allow", "deny"]
Mode = Literal["enforce", "observe"]
SubjectKind = Literal["host", "label", "site", "service", "client"]
SUBJECT_KINDS: tuple[SubjectKind, ...] = ("host", "label", "site", "service", "client")

MAX_RULE_NAME = 120
MAX_USER = 64
MAX_WHEN = 100
MAX_ITEMS = 1000
"""Entries of one `from`, `to` or `user`: a rule stays small enough to be sent and proved by itself."""

_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_LABEL_CHARACTERS = _ALNUM | frozenset("._-")


def _label_word(text: str, what: str, *, wild: str = "") -> str:
    """A label's key or value in canonical form; `wild` are the wildcards that are allowed in it."""
    word = text.lower() if text.isascii() else text
    reason = None
    if not word:
        reason = "it is empty"
    elif len(word) > MAX_LABEL:
        reason = f"it has {len(word)} characters, at most {MAX_LABEL} are allowed"
    elif not _LABEL_CHARACTERS.issuperset(word.translate({ord(c): None for c in wild})):
        reason = "it may use only a-z, 0-9, . _ and -"
    elif word[0] not in _ALNUM and word[0] not in wild:
        reason = "it must start with a letter or digit"
    elif "**" in word:
        reason = "one * is enough"
    if reason is not None:
        raise InputError(f"{shown(text)} is not a {what}: {reason}")
    return word


def _split_pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{shown(text)} is not a label", hint="write it as KEY=VALUE, like os=aix")
    return key, value


def parse_label_pair(text: str) -> tuple[str, str]:
    """`K=V` as given to `--label`, both in canonical form.

    Raises:
        InputError: no `=`, or a key or value outside the grammar (C09: every delimiter is refused).
    """
    key, value = _split_pair(text)
    return _label_word(key, "label key"), _label_word(value, "label value")


@dataclass(frozen=True, slots=True)
class SubjectPattern:
    """One entry of `from`, parsed. `key` is the label's, and empty for every other kind."""

    kind: SubjectKind
    glob: Glob
    key: str = ""

    def __str__(self) -> str:
        return f"label:{self.key}={self.glob.text}" if self.kind == "label" else f"{self.kind}:{self.glob.text}"

    def matches_host(self, host: Host) -> bool:
        """Whether the host, by what its operator signed, is one that this means."""
        match self.kind:
            case "host":
                return self.glob.matches(host.name)
            case "label":
                return self._is_among(host.labels)
            case "site":
                return host.site is not None and self.glob.matches(host.site)
            case "service":
                return any(self.glob.matches(service) for service in host.serves)
            case "client":
                return False

    def _is_among(self, labels: dict[str, str]) -> bool:
        return any(key == self.key and self.glob.matches(value) for key, value in canonical_labels(labels))

    def matches_client(self, client: Client) -> bool:
        """Whether this means the client, by what its operator signed."""
        if self.kind == "label":
            return self._is_among(client.labels)
        return self.kind == "client" and self.glob.matches(client.name)


@dataclass(frozen=True, slots=True)
class TargetPattern:
    """One entry of `to`, parsed: a service's name, or with `key` a label of its instances."""

    glob: Glob
    key: str = ""

    def __str__(self) -> str:
        return f"label:{self.key}={self.glob.text}" if self.key else self.glob.text

    def carried_by(self, instance: Instance) -> bool:
        """For a label target: whether this instance carries such a label."""
        return any(key == self.key and self.glob.matches(value) for key, value in canonical_labels(instance.labels))

    def matches(self, service: str, instances: tuple[Instance, ...], effect: Effect) -> bool:
        """Whether the service is meant. No instance at all is not "all of them" (fail closed)."""
        if not self.key:
            return self.glob.matches(service)
        carried = [self.carried_by(instance) for instance in instances]
        return any(carried) if effect == "deny" else bool(carried) and all(carried)


def canonical_labels(labels: dict[str, str]) -> list[tuple[str, str]]:
    """Labels as patterns see them, so that no spelling of a label slips past a deny (C03)."""
    return [(key.lower(), value.lower()) for key, value in labels.items()]


def _glob_or_name(text: str, kind: SubjectKind) -> Glob:
    """A pattern, or without wildcards a name that really can exist: a typo is better refused than never matched."""
    dotted = kind in ("host", "client")
    glob = parse_name_glob(text, f"{kind} name" if kind != "site" else "site", dotted=dotted)
    if glob.is_literal:
        {"service": parse_service, "site": parse_site}.get(kind, parse_host)(text)
    return glob


def parse_subject(text: str) -> SubjectPattern:
    """One entry of `from`. Raises InputError."""
    prefix, colon, rest = text.partition(":")
    kind = next((k for k in SUBJECT_KINDS if k == prefix.lower()), None)
    if not colon or kind is None:
        kinds = ", ".join(f"{k}:" for k in SUBJECT_KINDS)
        raise InputError(f"{shown(text)} is not a subject: it must start with one of {kinds}", hint=_subject_hint(text))
    if kind == "label":
        key, value = _split_pair(rest)
        return SubjectPattern(kind, Glob(_label_word(value, "label value", wild="*?")), _label_word(key, "label key"))
    return SubjectPattern(kind, _glob_or_name(rest, kind))


def _subject_hint(text: str) -> str:
    if ":" not in text and "=" in text:
        return f"to mean a label, write label:{shown(text)[1:-1]}"
    return "to mean a host by name, write host:NAME; host:** means every host"


def parse_target(text: str) -> TargetPattern:
    """One entry of `to`. Raises InputError."""
    prefix, colon, rest = text.partition(":")
    if not colon:
        return TargetPattern(_glob_or_name(text, "service"))
    if prefix.lower() != "label":
        raise InputError(f"{shown(text)} is not a target", hint="write a service's name, or label:KEY=VALUE")
    key, value = _split_pair(rest)
    return TargetPattern(Glob(_label_word(value, "label value", wild="*?")), _label_word(key, "label key"))


def parse_user(text: str) -> str:
    """A local user's name, compared exactly: user names have case, and no wildcard is understood here.

    Raises:
        InputError: empty, longer than 64, or with a space, a control character, a wildcard or a non-ASCII character.
    """
    if not (0 < len(text) <= MAX_USER and text.isascii() and text.isprintable()) or any(c in " *?" for c in text):
        raise InputError(f"{shown(text)} is not a user name", hint="name local users one by one, without wildcards")
    return text


def parse_rule_name(text: str) -> str:
    """What people call a rule: printable text of 1 to 120 characters, without spaces around it. Raises InputError."""
    if not 0 < len(text) <= MAX_RULE_NAME or not text.isprintable() or text != text.strip():
        raise InputError(
            f"{shown(text)} is not a rule name: it must be 1 to {MAX_RULE_NAME} printable characters"
            " without spaces around them"
        )
    return text


def parse_until(text: str) -> float:
    """The moment at which a rule with `until = text` has ended: midnight UTC after that day, in unix seconds.

    The day itself still counts, and it is a day in UTC, because a host's own zone must not decide what is allowed.

    Raises:
        InputError: not an ISO date.
    """
    try:
        day = datetime.date.fromisoformat(text)
        # Python also reads 20270331 and 2027-W13-3.
        if day.isoformat() != text:
            raise ValueError
        end = datetime.datetime.combine(day, datetime.time(), datetime.UTC) + datetime.timedelta(days=1)
    except (ValueError, OverflowError):
        raise InputError(f"{shown(text)} is not a date", hint="write it like 2027-03-31") from None
    return end.timestamp()


class Rule(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule, canonical from birth.

    A `when` that this machine cannot read (a zone that its database lacks) is kept: such an allow is never in force
    and such a deny always (see inventory/policy_index.py), where refusing the rule would keep an older policy alive.

    Raises:
        InputError: a field outside its grammar, or an empty `sources` or `to`.
    """

    name: str
    effect: Effect
    sources: tuple[str, ...]
    """TOML key `from`."""
    to: tuple[str, ...]
    user: tuple[str, ...] = ()
    when: str | None = None
    """A window in the grammar of inventory/windows.py."""
    until: str | None = None
    """ISO date; the last day in UTC on which the rule holds."""
    mode: Mode = "enforce"

    def __post_init__(self) -> None:
        parse_rule_name(self.name)
        if not self.sources:
            raise InputError("from is empty: it would mean nobody", hint="name at least one subject")
        if not self.to:
            raise InputError("to is empty: it would mean nothing", hint="name at least one service")
        longest = max(len(self.sources), len(self.to), len(self.user))
        if longest > MAX_ITEMS:
            raise InputError(
                f"a list has {longest} entries, at most {MAX_ITEMS} are allowed", hint="use globs or labels"
            )
        canonical = {
            "sources": tuple(str(parse_subject(text)) for text in self.sources),
            "to": tuple(str(parse_target(text)) for text in self.to),
        }
        for field, value in canonical.items():
            msgspec.structs.force_setattr(self, field, value)
        for user in self.user:
            parse_user(user)
        if self.when is not None and not 0 < len(self.when) <= MAX_WHEN:
            raise InputError(f"when has {len(self.when)} characters, 1 to {MAX_WHEN} are allowed")
        if self.until is not None:
            parse_until(self.until)
