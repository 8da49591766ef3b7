"""Pure: what every connected host must hear of a change, worked out from what the change touched.

`publisher.update_for` compares the whole of what a host may see with the whole of what it has; that is how a host is
told the first time, and after a new policy. In between an `Audience` follows the snapshots: of each change it looks up
who can be concerned, and notes for each of those what it held before of what was touched. A `Hearer`'s next update is
what differs from these notes. Both ways say exactly the same (tests/properties/test_audience.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agents.control.changes import Changes, Moved
from agents.control.messages import Update
from agents.control.publisher import EstateView, Sent, update_for
from inventory.health import host_of
from inventory.imports import gateway_of, import_key, place_of
from inventory.model import Health, Instance, Presence
from inventory.sight import BLIND, Look, Place, Sight, callers, sight_of, towards
from inventory.snapshot import Snapshot, Touched

V = TypeVar("V")

_NOTHING: frozenset[str] = frozenset()
_FOR_EVERYBODY = ("operator/", "gateway/", "revoke/gateway/", "domain", "policy")


@dataclass(slots=True)
class _Before:
    """What a host held, when it was last told something, of all that was touched since."""

    presence: dict[str, Presence | None] = field(default_factory=dict)
    reported: dict[str, tuple[Instance, ...]] = field(default_factory=dict)
    health: dict[str, Health | None] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    """Entry key -> number; 0: none."""

    def __bool__(self) -> bool:
        return bool(self.presence or self.reported or self.health or self.entries)


class Hearer:
    """What one host has been told on one control stream."""

    __slots__ = ("base", "before", "host", "noted", "revocations", "sight", "started")

    def __init__(self, host: str) -> None:
        self.host = host
        self.started = False
        self.base: EstateView | None = None
        """When all has to be compared: what the host was last told of, but for `before`."""
        self.before = _Before()
        self.sight: Sight | None = None
        """None: to be found anew."""
        self.noted: Sight | None = None
        """The sight by which the audience finds it."""
        self.revocations: dict[str, int] = {}
        """Of hosts: key -> number sent. Whoever was told of one is told of every later one (see `publisher`)."""


@dataclass(slots=True)
class _Crowd:
    """Hearers that look alike."""

    look: Look
    hosts: set[str] = field(default_factory=set)


class Audience:
    """All hearers, and the view that they are told of. It moves on with `follow` only."""

    def __init__(self, view: EstateView) -> None:
        self.view = view
        self._hearers: dict[str, Hearer] = {}
        self._places: dict[str, Place] = {}
        self._serving: dict[str, set[str]] = {}
        """Service -> the hearers that may serve it."""
        self._crowds: dict[object, _Crowd] = {}
        """By `Look.key`."""

    def join(self, hearer: Hearer) -> None:
        """Its first update is the whole. An earlier hearer of the same host has left."""
        other = self._hearers.get(hearer.host)
        if other is not None:
            self.leave(other)
        self._hearers[hearer.host] = hearer

    def leave(self, hearer: Hearer) -> None:
        if self._hearers.get(hearer.host) is hearer:
            self._note_look(hearer, BLIND)
            del self._hearers[hearer.host]

    def _note_look(self, hearer: Hearer, look: Look) -> Sight:
        """How the hearer looks from now on, so that it is found among the others; its sight, with a look that it shares
        with all that look alike."""
        host, was = hearer.host, hearer.noted.look if hearer.noted is not None else BLIND
        if was is not BLIND:
            crowd = self._crowds[was.key]
            crowd.hosts.remove(host)
            if not crowd.hosts:
                del self._crowds[was.key]
        if look is not BLIND:
            crowd = self._crowds.setdefault(look.key, _Crowd(look))
            crowd.hosts.add(host)
            look = crowd.look
        for name in was.served - look.served:
            self._serving[name].remove(host)
            if not self._serving[name]:
                del self._serving[name]
        for name in look.served - was.served:
            self._serving.setdefault(name, set()).add(host)
        hearer.noted = Sight(host, look)
        return hearer.noted

    # --- asking ---------------------------------------------------------------------------------------------------

    def place(self, host: str) -> Place:
        found = self._places.get(host)
        if found is None:
            found = self._places[host] = Place(self.view.snapshot, host)
        return found

    def forget_places(self) -> None:
        """They are large, and quickly made again: kept only while hearers are told."""
        self._places.clear()

    def sight(self, hearer: Hearer) -> Sight:
        if hearer.sight is None:
            hearer.sight = sight_of(self.view.snapshot, hearer.host)
            if self._hearers.get(hearer.host) is hearer:
                hearer.sight = self._note_look(hearer, hearer.sight.look)
        return hearer.sight

    def sees(self, hearer: Hearer, host: str) -> bool:
        """Whether the hearer may know of a host, by what is followed now."""
        return self.sight(hearer).sees(self.place(host))

    # --- following ------------------------------------------------------------------------------------------------

    def follow(self, view: EstateView, touched: Touched | None) -> Iterator[Hearer | None]:
        """Go on to a later view in small steps; each says who may have to hear of it, or nobody.

        To be run to its end before anybody is told anything. Between two steps hearers may join, leave and ask: the
        view moves on at once, with the sights of all that see it differently.

        Args:
            view: what is so now.
            touched: at least what differs; None: anything may.
        """
        before = self.view
        if touched is None or not _same_policy(before, view) or _is_about_clients(touched):
            self.view = view
            self._places.clear()
            yield from self._compare_all(self._hearers.values(), before)
            return
        changes = Changes(before.snapshot, view.snapshot, self._places)
        for host in touched.hosts | touched.named:
            changes.look_at(host)
            yield None
        changes.count_keys(touched)
        self.view = view
        self._places.update((host, one.after) for host, one in changes.moved.items())
        yield from self._compare_all(self._seen_differently(touched, changes.reshaped), before)
        for one in changes.moved.values():
            for hearer in self._witnesses(one, changes.reshaped, before.snapshot):
                concerned = hearer.base is None and hearer.started and self._note(hearer, one, before)
                yield hearer if concerned else None
        yield from self._note_for_everybody(touched, before)

    def start_over(self, view: EstateView) -> list[Hearer]:
        """Trust nothing that was noted: everybody is told the whole of this view."""
        self.view = view
        self._places.clear()
        for hearer in self._hearers.values():
            hearer.started, hearer.base, hearer.before, hearer.sight = False, None, _Before(), None
        return list(self._hearers.values())

    def _compare_all(self, hearers: Iterable[Hearer], before: EstateView) -> list[Hearer]:
        concerned = list(hearers)
        for hearer in concerned:
            hearer.sight = None
            if hearer.base is None:
                hearer.base = before
        return concerned

    def _seen_differently(self, touched: Touched, reshaped: set[str]) -> Iterator[Hearer]:
        """Hearers whose own entry differs, or the patterns of what they serve."""
        for host in touched.named:
            if host in self._hearers:
                yield self._hearers[host]
        for name in reshaped:
            for host in self._serving.get(name, ()):
                yield self._hearers[host]

    def _witnesses(self, moved: Moved, reshaped: set[str], old: Snapshot) -> list[Hearer]:
        """At least those that see the host, or something of it, differently now."""
        if moved.entry:
            return list(self._hearers.values())
        found: set[str] = set()
        for name in moved.services:
            found |= callers(self.view.snapshot, towards(self.view.snapshot, name))
            if name in reshaped:
                found |= callers(old, towards(old, name))
            found |= self._serving.get(name, _NOTHING)
        if moved.presence:
            found |= self._seeing(moved.after)
        return [hearer for host in found if (hearer := self._hearers.get(host)) is not None]

    def _seeing(self, place: Place) -> set[str]:
        """Those that see the host (see `Sight.sees`), by what was noted of them."""
        return {place.host}.union(*(crowd.hosts for crowd in self._crowds.values() if place.is_seen(crowd.look)))

    # --- noting ---------------------------------------------------------------------------------------------------

    def _note(self, hearer: Hearer, moved: Moved, view: EstateView) -> bool:
        """Note what the hearer held before of what moved; whether it may have to hear of it."""
        sight = self.sight(hearer)
        told = sight.is_told(moved.before)
        is_told = told if moved.after is moved.before else sight.is_told(moved.after)
        if not (told or is_told):
            return False
        host, old, before = moved.before.host, view.snapshot, hearer.before
        flipped, noted = told != is_told, False
        if moved.presence or flipped:
            known = old.presence.get(host) if sight.sees(moved.before) else None
            before.presence.setdefault(host, known)
            noted = True
        if flipped or moved.services or moved.reported:
            had = moved.before.seen_by(sight.look) if told else _NOTHING
            has = moved.after.seen_by(sight.look) if is_told else _NOTHING
            if (moved.reported or flipped) and host not in before.reported and (had or has):
                before.reported[host] = moved.before.reported(had)
                noted = True
            for instance_id in moved.all_of(had | has) if flipped else moved.ids:
                noted |= self._note_instance(hearer, moved, instance_id, had, has, old)
            gateway = gateway_of(host)
            if gateway is not None:
                for service in had | has if flipped else (had | has) & moved.services:
                    key = import_key(service, gateway)
                    before.entries.setdefault(key, old.authority.numbers.get(key, 0) if service in had else 0)
                    noted = True
        if flipped or moved.entry:
            for key in (f"host/{host}", f"revoke/host/{host}"):
                kept = key in hearer.revocations
                before.entries.setdefault(key, old.authority.numbers.get(key, 0) if told or kept else 0)
            noted = True
        return noted

    def _note_instance(
        self, hearer: Hearer, moved: Moved, instance_id: str, had: frozenset[str], has: frozenset[str], old: Snapshot
    ) -> bool:
        service = instance_id.partition("/")[0]
        held = service in had and instance_id in moved.before.instances
        if not held and not (service in has and instance_id in moved.after.instances):
            return False
        known = old.health_on(moved.before.host).get(instance_id) if held else None
        hearer.before.health.setdefault(instance_id, known)
        signed_before = instance_id in old.authority.instances
        if signed_before or instance_id in self.view.snapshot.authority.instances:
            key = f"service/{instance_id}"
            number = old.authority.numbers.get(key, 0) if held and signed_before else 0
            hearer.before.entries.setdefault(key, number)
        return True

    def _note_for_everybody(self, touched: Touched, before: EstateView) -> Iterator[Hearer]:
        """Entries that all hear of, and revocations that some hold of hosts that they no longer see."""
        numbers = before.snapshot.authority.numbers
        keys = [key for key in touched.keys if key.startswith(_FOR_EVERYBODY)]
        revoked = [key for key in touched.keys if key.startswith("revoke/host/")]
        if not keys and not revoked:
            return
        for hearer in list(self._hearers.values()):
            if hearer.base is not None or not hearer.started:
                continue
            mine = [*keys, *(key for key in revoked if key in hearer.revocations)]
            for key in mine:
                held = numbers.get(key, 0) if key in before.everybody else hearer.revocations.get(key, 0)
                hearer.before.entries.setdefault(key, held)
            if mine:
                yield hearer

    # --- telling --------------------------------------------------------------------------------------------------

    def next_update(self, hearer: Hearer) -> Update | None:
        """What the hearer lacks; it counts as told."""
        if not hearer.started or hearer.base is not None:
            return self._whole(hearer)
        before, hearer.before = hearer.before, _Before()
        return self._difference(hearer, before) if before else None

    def _whole(self, hearer: Hearer) -> Update | None:
        """As `update_for` says, from all that it was told before."""
        sent = Sent()
        if hearer.started and hearer.base is not None:
            update_for(hearer.host, hearer.base, sent)
            _take_back(sent, hearer)
        hearer.started, hearer.base, hearer.before = True, None, _Before()
        update = update_for(hearer.host, self.view, sent)
        everybody = self.view.everybody
        hearer.revocations = {
            key: number for key, number in sent.numbers.items() if key.startswith("revoke/") and key not in everybody
        }
        self.sight(hearer)
        return update

    def _difference(self, hearer: Hearer, before: _Before) -> Update | None:
        snapshot, sight = self.view.snapshot, self.sight(hearer)
        presence: dict[str, Presence | None] = {}
        for host, old in before.presence.items():
            new = snapshot.presence.get(host) if sight.sees(self.place(host)) else None
            if new != old:
                presence[host] = new
        reported: dict[str, tuple[Instance, ...]] = {}
        for host, instances in before.reported.items():
            place = self.place(host)
            mine = place.reported(place.seen_by(sight.look)) if sight.is_told(place) else ()
            if mine != instances:
                reported[host] = mine
        health: dict[str, Health | None] = {}
        for instance_id, was in before.health.items():
            host = host_of(instance_id)
            now = snapshot.health_on(host).get(instance_id) if self._holds(sight, instance_id) else None
            if now != was:
                health[instance_id] = now
        update = Update(revision=snapshot.revision, presence=presence, reported=reported, health=health)
        return self._with_entries(hearer, before.entries, update)

    def _with_entries(self, hearer: Hearer, before: Mapping[str, int], update: Update) -> Update | None:
        numbers, latest = self.view.snapshot.authority.numbers, self.view.latest
        new, dropped = [], []
        for key, was in before.items():
            number = numbers.get(key, 0)
            wanted = self._wants(hearer, key, before)
            if (wanted and number and number != was) or (not wanted and was and number > was):
                new.append((number, latest[key]))
            if not wanted and was:
                dropped.append(key)
            if wanted and number and key.startswith("revoke/") and key not in self.view.everybody:
                hearer.revocations[key] = number
        if new or dropped:
            entries = tuple(signed for _, signed in sorted(new, key=lambda item: item[0]))
            return Update(
                revision=update.revision,
                entries=entries,
                dropped=tuple(sorted(dropped)),
                presence=update.presence,
                reported=update.reported,
                health=update.health,
            )
        return update if update.presence or update.reported or update.health else None

    def _wants(self, hearer: Hearer, key: str, before: Mapping[str, int]) -> bool:
        """As `publisher._wanted`, asked about one key."""
        kind, _, rest = key.partition("/")
        if key in self.view.everybody or key in hearer.revocations:
            return True
        sight = self.sight(hearer)
        if kind == "revoke":
            host = rest.removeprefix("host/")
            return rest != host and (sight.is_told(self.place(host)) or bool(before.get(rest)))
        if kind == "host":
            return sight.is_told(self.place(rest))
        if kind == "import":
            service, _, gateway = rest.partition("/")
            place = self.place(place_of(gateway))
            return sight.is_told(place) and service in place.seen_by(sight.look)
        if kind != "service" or rest not in self.view.snapshot.authority.instances:
            return False
        return self._holds(sight, rest)

    def _holds(self, sight: Sight, instance_id: str) -> bool:
        """Whether the one who looks is told of the instance."""
        place = self.place(host_of(instance_id))
        if instance_id not in place.instances or not sight.is_told(place):
            return False
        return place.instances[instance_id].service in place.seen_by(sight.look)


def _is_about_clients(touched: Touched) -> bool:
    """Who hears of a client is not followed: entries about clients are as rare as policies."""
    return any(key.startswith("client/") for key in touched.keys)


def _same_policy(old: EstateView, new: EstateView) -> bool:
    return old.snapshot.index is new.snapshot.index  # see `Snapshot.evolved`


def _take_back(sent: Sent, hearer: Hearer) -> None:
    """Make of what it would have been told at its base what it was really told."""
    before = hearer.before
    sent.numbers.update(hearer.revocations)
    _put(sent.presence, before.presence)
    _put(sent.reported, before.reported)
    _put(sent.health, before.health)
    _put(sent.numbers, before.entries)


def _put(held: dict[str, V], notes: Mapping[str, V | None]) -> None:
    for name, value in notes.items():
        if value:
            held[name] = value
        else:
            held.pop(name, None)
