"""Pure: one host looked at by another: the same answers as `visible` gives of all at once."""

from __future__ import annotations

import random

import pytest

from inventory.model import Host
from inventory.sight import Place, callers, sight_of, towards
from inventory.visibility import visible
from tests.support.estates import instance, random_snapshot, revocation, rule, snapshot

HOSTS = [Host(name="web"), Host(name="db", serves=("ledger", "cards")), Host(name="other")]


@pytest.mark.parametrize("seed", range(80))
def test_single_answers_add_up_to_the_whole(seed: int) -> None:
    made = random_snapshot(random.Random(seed))
    for name in made.authority.hosts:
        seen, sight = visible(made, name), sight_of(made, name)
        places = [Place(made, host) for host in made.authority.hosts]
        assert {place.host for place in places if sight.sees(place)} == seen.hosts
        shown = {service for place in places for service in place.seen_by(sight.look)}
        assert shown == {service for service in seen.services if made.service(service) is not None}
        assert all(sight.is_told(place) for place in places if place.host == name)


def test_a_revoked_host_sees_nothing_and_is_told_of_itself() -> None:
    made = snapshot(HOSTS, [instance("ledger", "db")], [rule("r", "allow", "host:*", "*")], revoked=[revocation("web")])
    sight, me, db = sight_of(made, "web"), Place(made, "web"), Place(made, "db")
    assert sight.look.blind and not sight.sees(me) and sight.is_told(me) and not sight.is_told(db)
    assert not sight_of(made, "db").sees(me)


def test_a_place_shows_what_the_one_who_looks_may_see() -> None:
    signed = instance("ledger", "db")
    own, hidden = instance("ledger", "db", target="127.0.0.1:9001"), instance("cards", "db", target="127.0.0.1:9002")
    rules = [rule("r", "allow", "host:web", "ledger"), rule("o", "allow", "host:web", "cards", mode="observe")]
    made = snapshot(HOSTS, [signed], rules, reported={"db": (own, hidden)})
    place, web, db = Place(made, "db"), sight_of(made, "web"), sight_of(made, "db")
    assert place.seen_by(web.look) == {"ledger"} and place.seen_by(db.look) == {"ledger", "cards"}
    assert place.reported(place.seen_by(web.look)) == (own,) and place.reported(place.seen_by(db.look)) == (own, hidden)
    assert sorted(place.ids["ledger"]) == sorted([signed.id, own.id])
    assert callers(made, towards(made, "ledger")) == {"web"} and callers(made, towards(made, "cards")) == set()
