"""Pure: the rules of one policy, arranged so that those about a subject and a service are found without walking all.

The distinct patterns of all rules are numbered. A set of rules is a Python integer with one bit per rule (bit i is
`rules[i]`), and each pattern has the set of rules that name it. A host has the union over the patterns that match it, a
service likewise, and the rules about both are one `&`. With 10,000 rules such a set is 1.3 kB and the `&` takes a tenth
of a microsecond.

Nothing here decides: see bridge/policy/decide.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from inventory.errors import InputError
from inventory.globs import Glob, GlobMap
from inventory.model import Client, Host, Instance, Service
from inventory.policy_rules import Rule, canonical_labels, parse_subject, parse_target, parse_until
from inventory.windows import Window, parse_window

REMEMBERED = 20_000
"""Hosts, and services, whose rules are kept; when there are more, all are found again. 25 MB each at 10,000 rules."""


def bits_of(mask: int) -> Iterator[int]:
    """The positions of the bits that are set, lowest first."""
    # As text, lowest first: to find the next digit is quicker than to do sums with numbers of 10,000 bits.
    digits = bin(mask)[:1:-1]
    position = digits.find("1")
    while position >= 0:
        yield position
        position = digits.find("1", position + 1)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """A rule with what a decision needs of it, parsed."""

    rule: Rule
    sources: tuple[int, ...]
    """Numbers of its patterns, as in `PolicyIndex.source_patterns`."""
    targets: tuple[int, ...]
    """As in `PolicyIndex.target_patterns`."""
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


class _Patterns:
    """The distinct entries of every `from` (or of every `to`), numbered, each with the set of rules that name it."""

    def __init__(self) -> None:
        self.rules: list[int] = []
        """By pattern number: a bit for each rule."""
        self._numbers: dict[str, int] = {}
        self._maps: dict[str, GlobMap] = {}

    def add(self, text: str, field: str, glob: Glob, bit: int) -> int:
        """The number of a pattern over `field` (a kind, or `label:` and a key), which the rule with this bit names."""
        number = self._numbers.setdefault(text, len(self.rules))
        if number == len(self.rules):
            self.rules.append(0)
            self._maps.setdefault(field, GlobMap()).add(glob, number)
        self.rules[number] |= bit
        return number

    def find(self, field: str, value: str) -> list[int]:
        """Numbers of the patterns over the field that match the value."""
        return self._maps[field].find(value) if field in self._maps else []

    def find_labels(self, labels: dict[str, str]) -> set[int]:
        return {n for key, value in canonical_labels(labels) for n in self.find(f"label:{key}", value)}

    def united(self, numbers: Iterable[int]) -> int:
        """The rules that name any of these patterns."""
        mask = 0
        for number in numbers:
            mask |= self.rules[number]
        return mask


class PolicyIndex:
    """Every rule of one policy, denies and allows, enforced and observed."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._sources = _Patterns()
        self._targets = _Patterns()
        self._has_label_targets = False
        self._schedules: dict[str, _Schedule] = {}
        self._hosts: dict[str, tuple[Host, int]] = {}
        self._services: dict[str, tuple[Service, int]] = {}
        self.denies = self.enforced = self.naming_users = 0
        self.rules: list[CompiledRule] = []
        for rule in rules:
            self._add(rule)

    def _add(self, rule: Rule) -> None:
        bit = 1 << len(self.rules)
        sources, targets = [], []
        for text in rule.sources:
            subject = parse_subject(text)
            field = f"label:{subject.key}" if subject.key else subject.kind
            sources.append(self._sources.add(text, field, subject.glob, bit))
        for text in rule.to:
            target = parse_target(text)
            field = f"label:{target.key}" if target.key else "name"
            targets.append(self._targets.add(text, field, target.glob, bit))
            self._has_label_targets |= bool(target.key)
        self.denies |= bit if rule.effect == "deny" else 0
        self.enforced |= bit if rule.mode == "enforce" else 0
        self.naming_users |= bit if rule.user else 0
        self.rules.append(self._compiled(rule, tuple(sources), tuple(targets)))

    def _compiled(self, rule: Rule, sources: tuple[int, ...], targets: tuple[int, ...]) -> CompiledRule:
        schedule, readable = None, True
        if rule.when is not None:
            try:
                schedule = self._schedules.setdefault(rule.when, _Schedule(parse_window(rule.when)))
            except InputError:
                readable = False
        ends_at = None if rule.until is None else parse_until(rule.until)
        return CompiledRule(
            rule=rule,
            sources=sources,
            targets=targets,
            users=frozenset(rule.user),
            ends_at=ends_at,
            schedule=schedule,
            readable=readable,
        )

    @property
    def everything(self) -> int:
        return (1 << len(self.rules)) - 1

    @property
    def allows(self) -> int:
        return self.everything & ~self.denies

    @cached_property
    def acting(self) -> int:
        """The allow rules that are enforced: those by which hosts see each other."""
        return self.allows & self.enforced

    def from_host(self, host: Host) -> int:
        """The rules whose `from` means this host, by what its operator signed."""
        known = self._hosts.get(host.name)
        if known is not None and known[0] is host:
            return known[1]
        mask = self._sources.united(self.source_patterns(host))
        if len(self._hosts) >= REMEMBERED:
            self._hosts.clear()
        self._hosts[host.name] = (host, mask)
        return mask

    def source_patterns(self, host: Host) -> list[int]:
        """Numbers of the patterns that mean this host."""
        sources = self._sources
        found = sources.find("host", host.name)
        if host.site is not None:
            found += sources.find("site", host.site)
        for service in host.serves:
            found += sources.find("service", service)
        return [*found, *sources.find_labels(host.labels)]

    def from_client(self, client: Client) -> int:
        """The rules whose `from` means this client, by what its operator signed."""
        return self._sources.united(self.client_patterns(client))

    def client_patterns(self, client: Client) -> list[int]:
        """Numbers of the patterns that mean this client."""
        return [*self._sources.find("client", client.name), *self._sources.find_labels(client.labels)]

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
        for_any, for_deny = self.target_patterns(name, instances)
        mask = self._targets.united(for_any)
        return mask | self._targets.united(for_deny) & self.denies if for_deny else mask

    def target_patterns(self, name: str, instances: tuple[Instance, ...]) -> tuple[list[int], set[int]]:
        """Numbers of the patterns that mean this service, and of those that mean it in a deny only.

        The latter are labels that some of its instances carry and others do not.
        """
        named = self._targets.find("name", name)
        if not instances or not self._has_label_targets:
            return named, set()
        carried = [self._targets.find_labels(labels) for labels in _distinct_labels(instances)]
        on_all = carried[0].intersection(*carried)
        return [*named, *on_all], carried[0].union(*carried) - on_all


def _distinct_labels(instances: tuple[Instance, ...]) -> list[dict[str, str]]:
    """Most instances of a service carry the same labels; each set of labels once."""
    return list({tuple(i.labels.items()): i.labels for i in instances}.values())
