"""I/O: what a host knows: updates that count whole or not at all, and a home that starts from what it knew last."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from agents.control.messages import Update
from agents.knowledge.known import ALLOWS_FILE, PLACEMENT_FILE, SLICE_FILE, Known
from agents.knowledge.placement import PlacementFile
from bridge.policy.decide import Permit, Refusal, Subject, decide
from inventory.authority import Slice
from inventory.errors import InputError, MeshError, Unavailable
from inventory.home import write_file
from inventory.model import Health, Instance, Presence
from inventory.policy_document import PolicyDocument, PolicySlice, PolicySlicer, build
from inventory.policy_rules import Rule
from tests.support.authority import NOW, Chain, gateway, host, instance, revoke
from tests.support.estates import rule

ALLOW = rule("vm2 reads web", "allow", "host:vm2", "web")
DENY = rule("not vm2", "deny", "host:vm2", "web")


def signed_policy(chain: Chain, *rules: Rule) -> tuple[PolicyDocument, PolicySlice]:
    body, document = build(rules, "text", random_bytes=random.Random(1).randbytes)
    chain.add(body)
    return document, PolicySlicer(document).slice(range(len(document.leaves)))


class Estate:
    """A signed log with two hosts, a service and a policy, and what a host made of it."""

    def __init__(self, *rules: Rule) -> None:
        self.chain = Chain(gateway("gw1"), host("vm1", "web"), host("vm2"), instance("web", "vm1"))
        self.document, self.leaves = signed_policy(self.chain, *(rules or (ALLOW,)))
        start = Slice.start(self.chain.log[0], self.chain.fingerprint)
        self.empty = Known.start(start, (), PlacementFile())

    def whole(self, **changes: object) -> Update:
        values: dict[str, object] = {
            "revision": 1,
            "full": True,
            "entries": tuple(self.chain.log[1:]),
            "leaves": self.leaves,
        }
        return Update(**{**values, **changes})  # type: ignore[arg-type]

    def known(self, **changes: object) -> Known:
        return self.empty.updated("gw1", self.whole(**changes), at=NOW)


def may(known: Known) -> bool:
    decision = decide(known.snapshot, Subject("host", "vm2"), "web", now=NOW)
    return isinstance(decision, Permit)


def test_what_a_gateway_sends_counts_once_it_verifies() -> None:
    known = Estate().known(presence={"vm1": Presence(host="vm1", online=True)})
    assert may(known) and known.as_of == NOW
    assert known.snapshot.presence["vm1"].online and set(known.snapshot.authority.hosts) == {"vm1", "vm2"}


def test_an_update_with_one_forged_entry_changes_nothing() -> None:
    estate = Estate()
    forged = Chain(host("vm3")).log[1]
    with pytest.raises(InputError):
        estate.empty.updated("gw1", estate.whole(entries=(*estate.chain.log[1:], forged)), at=NOW)
    other = Estate(rule("everybody", "allow", "host:**", "web"))
    with pytest.raises(InputError, match="not part of the signed policy"):
        estate.empty.updated("gw1", estate.whole(leaves=other.leaves), at=NOW)
    assert not may(estate.empty)


def test_a_new_policy_without_its_rules_allows_nothing() -> None:
    estate = Estate()
    known = estate.known()
    _, leaves = signed_policy(estate.chain, ALLOW, rule("more", "allow", "host:vm1", "web"))
    without = known.updated("gw1", Update(revision=2, entries=(estate.chain.log[-1],)), at=NOW)
    assert not may(without)
    assert may(without.updated("gw1", Update(revision=3, leaves=leaves), at=NOW))


def test_f46_a_full_update_keeps_revocations_and_the_policy_and_forgets_the_rest() -> None:
    estate = Estate()
    estate.chain.add(revoke("vm2"))
    known = estate.known(entries=tuple(estate.chain.log[1:]))
    assert not may(known)
    after = known.updated("gw1", Update(revision=5, full=True, entries=tuple(estate.chain.log[1:3])), at=NOW)
    authority = after.snapshot.authority
    assert set(authority.hosts) == {"vm1"} and not authority.instances
    assert "spiffe://t.internal/host/vm2" in authority.revoked_identities
    assert authority.policy is not None and authority.policy_number == known.snapshot.authority.policy_number
    assert after.snapshot.allows == known.snapshot.allows


def test_the_same_full_update_again_is_the_same_knowledge_and_costs_no_new_values() -> None:
    estate = Estate()
    reported = Instance(service="web", host="vm1", target="127.0.0.1:9001", port=8080)
    places = {"reported": {"vm1": (reported,)}, "health": {reported.id: Health(state="passing")}}
    known = estate.known(**places)
    again = known.updated("gw1", msgspec.json.decode(msgspec.json.encode(estate.whole(**places)), type=Update), at=NOW)
    assert again.leaves is known.leaves and again.snapshot.allows is known.snapshot.allows
    assert again.snapshot.reported["vm1"] is known.snapshot.reported["vm1"]
    assert again.snapshot.authority == known.snapshot.authority and again.snapshot.health == known.snapshot.health
    assert again.snapshot.services == known.snapshot.services and may(again)


def test_h23_what_cannot_be_used_is_left_out_of_a_report_beside_what_was_held() -> None:
    estate = Estate()
    good = Instance(service="web", host="vm1", target="127.0.0.1:9001", port=8080)
    moved = msgspec.structs.replace(good, target="127.0.0.1:9002")
    known = estate.known(reported={"vm1": (good,)})
    for bad in (msgspec.structs.replace(good, port=0), msgspec.structs.replace(moved, host="vm2")):
        after = known.updated("gw1", Update(revision=2, reported={"vm1": (bad, good, moved)}), at=NOW)
        assert after.snapshot.reported["vm1"] == (good, moved)
        only = known.updated("gw1", Update(revision=2, reported={"vm1": (bad,)}), at=NOW)
        assert "vm1" not in only.snapshot.reported


def test_c10_a_full_update_is_all_there_is_of_places() -> None:
    estate = Estate()
    reported = Instance(service="web", host="vm1", target="127.0.0.1:9001", port=8080)
    known = estate.known(
        presence={"vm1": Presence(host="vm1"), "vm2": Presence(host="vm2")},
        reported={"vm1": (reported,)},
        health={reported.id: Health(state="passing")},
    )
    assert known.snapshot.reported == {"vm1": (reported,)} and known.snapshot.health
    after = known.updated("gw1", estate.whole(presence={"vm1": Presence(host="vm1")}), at=NOW)
    assert set(after.snapshot.presence) == {"vm1"} and not after.snapshot.reported and not after.snapshot.health
    gone = after.updated("gw1", Update(revision=9, presence={"vm1": None}), at=NOW)
    assert not gone.snapshot.presence


ODD_INSTANCES = [
    Instance(service="web", host="vm1", target="127.0.0.1:9001", port=99999),
    Instance(service="web", host="vm1", target="127.0.0.1:9001", port=-1),
    Instance(service="web", host="vm1", target="nonsense", port=80),
    Instance(service="web", host="vm1", target="169.254.169.254:80", port=80),
    Instance(service="web", host="vm1", target="127.0.0.1:9001", port=80, weight=-5),
    Instance(service="WEB", host="vm1", target="127.0.0.1:9001", port=80),
    Instance(service="web", host="vm2", target="127.0.0.1:9001", port=80),
    Instance(service="web", host="vm1", target="127.0.0.1:9001", port=80, labels={"a b": "c"}),
]


@pytest.mark.parametrize("odd", ODD_INSTANCES, ids=lambda i: f"{i.service} {i.host} {i.target} {i.port} {i.weight}")
def test_h27_places_that_cannot_be_used_are_passed_over_and_the_rest_counts(odd: Instance) -> None:
    good = Instance(service="web", host="vm1", target="127.0.0.1:9002", port=8080)
    known = Estate().known(reported={"vm1": (odd, good)})
    assert known.snapshot.reported == {"vm1": (good,)} and may(known)


def test_a_gateway_that_speaks_of_unknown_hosts_is_harmless() -> None:
    names = [f"nobody-{n}" for n in range(100)]
    known = Estate().known(
        presence={name: Presence(host=name, online=True) for name in names} | {"vm1": Presence(host="vm2")},
        reported={"nobody": (Instance(service="web", host="nobody", target="127.0.0.1:1", port=80),)},
        health={"web/nobody/127.0.0.1:1": Health(), "x": Health(), "": Health()},
    )
    assert not known.snapshot.presence and not known.snapshot.reported and not known.snapshot.health


def test_h23_an_address_that_nobody_can_dial_is_left_out() -> None:
    for address in ("169.254.169.254:80", "0.0.0.0:7443", "no port", "[fe80::1%eth0]:1"):
        known = Estate().known(presence={"vm1": Presence(host="vm1", online=True, advertise=address)})
        assert known.snapshot.presence["vm1"] == Presence(host="vm1", online=True)


def test_c44_reasons_of_health_are_printable_and_short() -> None:
    known = Estate().known(health={"web/vm1/127.0.0.1:9000": Health(state="failing", reason="\x1b[2J" * 1000)})
    reason = known.snapshot.health["web/vm1/127.0.0.1:9000"].reason
    assert reason.isprintable() and len(reason) <= 200


# --- disk -------------------------------------------------------------------------------------------------------------


def test_f14_a_host_starts_from_what_it_knew_last(tmp_path: Path) -> None:
    estate = Estate(ALLOW)
    known = estate.known(presence={"vm1": Presence(host="vm1", advertise="10.0.0.1:7443")})
    known.save(tmp_path, estate.empty)
    loaded = Known.load(tmp_path, estate.chain.fingerprint)
    assert may(loaded) and loaded.as_of == NOW
    assert loaded.snapshot.presence == known.snapshot.presence
    assert loaded.snapshot.services == known.snapshot.services


def test_f14_deny_rules_hold_from_disk(tmp_path: Path) -> None:
    estate = Estate(ALLOW, DENY)
    estate.known().save(tmp_path, estate.empty)
    decision = decide(Known.load(tmp_path, estate.chain.fingerprint).snapshot, Subject("host", "vm2"), "web", now=NOW)
    assert isinstance(decision, Refusal) and decision.rule == "not vm2"


def test_c18_an_unreadable_revocation_list_refuses_to_start(tmp_path: Path) -> None:
    """The revocations are in authority.slice: without it nobody could be told from a revoked host."""
    estate = Estate()
    estate.known().save(tmp_path, estate.empty)
    path = tmp_path / SLICE_FILE
    good = path.read_bytes()
    for damaged in (good[: len(good) // 2], b"", b"{}", good.replace(b"slice-v1", b"slice-v9")):
        write_file(path, damaged)
        with pytest.raises(InputError) as caught:
            Known.load(tmp_path, estate.chain.fingerprint)
        assert caught.value.where == str(path) and "agent join" in caught.value.hint
    path.unlink()
    with pytest.raises(Unavailable):
        Known.load(tmp_path, estate.chain.fingerprint)


def test_f34_what_is_on_disk_is_of_this_trust_domain(tmp_path: Path) -> None:
    estate = Estate()
    estate.known().save(tmp_path, estate.empty)
    with pytest.raises(InputError):
        Known.load(tmp_path, "0" * 64)


@pytest.mark.parametrize("damage", [b"", b"[", b"{}", b'{"format":"allows-v1","policies":{"6":[]}}'])
def test_damaged_rules_cost_what_they_allowed_and_nothing_else(tmp_path: Path, damage: bytes) -> None:
    estate = Estate(ALLOW, DENY)
    estate.known().save(tmp_path, estate.empty)
    write_file(tmp_path / ALLOWS_FILE, damage)
    loaded = Known.load(tmp_path, estate.chain.fingerprint)
    assert not may(loaded) and loaded.snapshot.rules == (DENY,)


def test_rules_on_disk_that_are_not_the_signed_ones_allow_nothing(tmp_path: Path) -> None:
    estate, other = Estate(), Estate(rule("everybody", "allow", "host:**", "web"))
    estate.known().save(tmp_path, estate.empty)
    loaded = (tmp_path / ALLOWS_FILE).read_bytes()
    other.known().save(tmp_path, other.empty)
    (tmp_path / SLICE_FILE).write_bytes(estate.known().slice.encode())
    assert not may(Known.load(tmp_path, estate.chain.fingerprint))
    (tmp_path / ALLOWS_FILE).write_bytes(loaded)
    assert may(Known.load(tmp_path, estate.chain.fingerprint))


def test_damaged_placement_costs_only_the_places(tmp_path: Path) -> None:
    estate = Estate()
    estate.known(presence={"vm1": Presence(host="vm1")}).save(tmp_path, estate.empty)
    write_file(tmp_path / PLACEMENT_FILE, b"\x00")
    loaded = Known.load(tmp_path, estate.chain.fingerprint)
    assert may(loaded) and not loaded.snapshot.presence and loaded.as_of == 0


def test_f03_a_crash_between_the_files_leaves_a_policy_with_its_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two policies come between two saves, and the machine dies before the second file is written."""
    estate = Estate()
    first = estate.known()
    first.save(tmp_path, estate.empty)
    known = first
    for _ in range(2):
        _, leaves = signed_policy(estate.chain, ALLOW, DENY)
        known = known.updated("gw1", Update(revision=2, entries=(estate.chain.log[-1],), leaves=leaves), at=NOW)
    written: list[Path] = []

    def dies(path: Path, data: bytes) -> None:
        if written:
            raise Unavailable("the machine died")
        written.append(path)
        write_file(path, data)

    monkeypatch.setattr("agents.knowledge.known.write_file", dies)
    with pytest.raises(MeshError):
        known.save(tmp_path, first)
    assert [path.name for path in written] == [ALLOWS_FILE]
    assert may(Known.load(tmp_path, estate.chain.fingerprint)), "the old policy is on disk, and so are its rules"
