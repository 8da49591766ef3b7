"""Pure: the rules of one policy, arranged so that those about a subject and a service are found without walking all.

A set of rules is a Python integer with one bit per rule (bit i is `rules[i]`). Each pattern has the set of rules that
name it; a host has the union over the patterns that match it, a service likewise, and the rules about both are one
`&`. With 10,000 rules such a set is 1.3 kB and the `&` takes a tenth of a microsecond.

Nothing here decides: see bridge/policy/decide.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from inventory.errors import InputError
from inventory.globs import GlobMasks
from inventory.model import Host, Instance, Service
from inventory.policy_rules import Rule, canonical_labels, parse_subject, parse_target, parse_until
from inventory.windows import Window, parse_window

REMEMBERED = 20_000
"""Hosts, and services, whose rules are kept; when there are more, all are found again. 25 MB each at 10,000 rules."""


def bits_of(mask: int) -> Iterator[int]:
    """The positions of the bits that are set, lowest first."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


class _Schedule:
    """One window, remembering the stretch it was last asked about: reading a zone's clock takes 100 µs."""

    __slots__ = ("_inside", "_since", "_until", "_window")

    def __init__(self, window: Window) -> None:
        self._window = window
        self._since = self._until = 0.0
        self._inside = False

    def at(self, now: float) -> tuple[bool, float]:
        """Whether `now` is inside, and until when that holds."""
        if not self._since <= now < self._until:
            self._inside, self._until = self._window.contains(now), self._window.next_edge(now)
            self._since = now
        return self._inside, self._until


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule with what a decision needs of it, parsed."""

    rule: Rule
    users: frozenset[str]
    """Empty: the rule does not ask who the user is."""
    ends_at: float | None
    schedule: _Schedule | None
    readable: bool
    """False when its window cannot be read here. Such a deny always holds and such an allow never does."""

    def in_force(self, now: float) -> tuple[bool, float | None]:
        """Whether the rule holds at `now` as far as time goes, and when that may change (None: never by itself)."""
        if not self.readable:
            return self.rule.effect == "deny", None
        if self.ends_at is not None and now >= self.ends_at:
            return False, None
        if self.schedule is None:
            return True, self.ends_at
        inside, edge = self.schedule.at(now)
        return inside, edge if self.ends_at is None else min(edge, self.ends_at)


class PolicyIndex:
    """Every rule of one policy, denies and allows, enforced and observed."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._sources = {kind: GlobMasks() for kind in ("host", "site", "service", "client")}
        self._source_labels: dict[str, GlobMasks] = {}
        self._names = GlobMasks()
        self._target_labels: dict[str, GlobMasks] = {}
        # Bits of `_target_labels` stand for label targets, so that "all instances carry it" is asked of each target.
        self._label_targets: dict[str, int] = {}
        self._label_target_rules: list[int] = []
        self._schedules: dict[str, _Schedule] = {}
        self._hosts: dict[str, tuple[Host, int]] = {}
        self._services: dict[str, tuple[Service, int]] = {}
        self.denies = self.enforced = self.naming_users = 0
        self.rules: list[CompiledRule] = []
        for rule in rules:
            self._add(rule)

    def _add(self, rule: Rule) -> None:
        bit = 1 << len(self.rules)
        for text in rule.sources:
            subject = parse_subject(text)
            if subject.kind == "label":
                self._source_labels.setdefault(subject.key, GlobMasks()).add(subject.glob, bit)
            else:
                self._sources[subject.kind].add(subject.glob, bit)
        for text in rule.to:
            target = parse_target(text)
            if target.key:
                number = self._label_targets.setdefault(str(target), len(self._label_target_rules))
                if number == len(self._label_target_rules):
                    self._label_target_rules.append(0)
                    self._target_labels.setdefault(target.key, GlobMasks()).add(target.glob, 1 << number)
                self._label_target_rules[number] |= bit
            else:
                self._names.add(target.glob, bit)
        self.denies |= bit if rule.effect == "deny" else 0
        self.enforced |= bit if rule.mode == "enforce" else 0
        self.naming_users |= bit if rule.user else 0
        self.rules.append(self._compiled(rule))

    def _compiled(self, rule: Rule) -> CompiledRule:
        schedule, readable = None, True
        if rule.when is not None:
            try:
                schedule = self._schedules.setdefault(rule.when, _Schedule(parse_window(rule.when)))
            except InputError:
                readable = False
        ends_at = None if rule.until is None else parse_until(rule.until)
        return CompiledRule(rule, frozenset(rule.user), ends_at, schedule, readable)

    @property
    def everything(self) -> int:
        return (1 << len(self.rules)) - 1

    @property
    def allows(self) -> int:
        return self.everything & ~self.denies

    def from_host(self, host: Host) -> int:
        """The rules whose `from` means this host, by what its operator signed."""
        known = self._hosts.get(host.name)
        if known is not None and known[0] is host:
            return known[1]
        mask = self._sources["host"].find(host.name)
        if host.site is not None:
            mask |= self._sources["site"].find(host.site)
        for service in host.serves:
            mask |= self._sources["service"].find(service)
        mask |= _find_labels(self._source_labels, host.labels)
        if len(self._hosts) >= REMEMBERED:
            self._hosts.clear()
        self._hosts[host.name] = (host, mask)
        return mask

    def from_client(self, name: str) -> int:
        """The rules whose `from` means this agentless client."""
        return self._sources["client"].find(name)

    def to_service(self, service: Service) -> int:
        """The rules whose `to` means this service, by its name or by its instances' labels."""
        known = self._services.get(service.name)
        if known is not None and known[0] is service:
            return known[1]
        mask = self.to_instances(service.name, service.instances)
        if len(self._services) >= REMEMBERED:
            self._services.clear()
        self._services[service.name] = (service, mask)
        return mask

    def to_instances(self, name: str, instances: tuple[Instance, ...]) -> int:
        """As `to_service`, for a service that may have no instance."""
        mask = self._names.find(name)
        if not instances or not self._target_labels:
            return mask
        carried = [_find_labels(self._target_labels, labels) for labels in _distinct_labels(instances)]
        on_all, on_any = carried[0], 0
        for targets in carried:
            on_all &= targets
            on_any |= targets
        for number in bits_of(on_any):
            rules = self._label_target_rules[number]
            mask |= rules if on_all >> number & 1 else rules & self.denies
        return mask


def _find_labels(by_key: dict[str, GlobMasks], labels: dict[str, str]) -> int:
    mask = 0
    for key, value in canonical_labels(labels):
        if key in by_key:
            mask |= by_key[key].find(value)
    return mask


def _distinct_labels(instances: tuple[Instance, ...]) -> list[dict[str, str]]:
    """Most instances of a service carry the same labels; each set of labels once."""
    return list({tuple(sorted(i.labels.items())): i.labels for i in instances}.values())
