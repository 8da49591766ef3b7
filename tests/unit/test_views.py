"""Pure: whose word counts of what a gateway brings in: its own."""

from __future__ import annotations

from agents.knowledge.views import FROM_DISK, View, place_of
from inventory.imports import instance_of
from inventory.model import Import, Instance

PLACE = "gateway:gw1"
WEB = Import(service="web", gateway="gw1", source="Web")


def found(address: str) -> tuple[Instance, ...]:
    return (instance_of(WEB, f"{address}:80", port=80),)


def saying(*instances: Instance, linked: bool = True) -> View:
    return View(reported={PLACE: instances} if instances else {}, linked=linked)


def test_of_what_a_gateway_brings_in_its_own_word_counts() -> None:
    said = found("10.0.0.1")
    for others in (View(), saying(*found("10.0.0.2")), saying(*found("10.0.0.2"), linked=False)):
        for linked in (True, False):
            views = {"gw0": others, "gw1": saying(*said, linked=linked), "gw2": others, FROM_DISK: others}
            assert place_of(views, PLACE)[1] == said
        assert place_of({"gw0": others, "gw1": saying(), FROM_DISK: others}, PLACE)[1] == (), "also when it has none"


def test_before_it_is_heard_what_was_known_at_the_start_counts() -> None:
    said = found("10.0.0.1")
    assert place_of({"gw2": View(), FROM_DISK: saying(*said)}, PLACE)[1] == said
