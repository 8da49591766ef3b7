"""Pure: what judges the run of kills and cuts can say no: a lost change, a request that failed without a reason."""

from __future__ import annotations

import random
from pathlib import Path
from typing import cast

from tests.support.changes import GONE, REVOKED, THERE, Changes, Model
from tests.support.consul_estate import CALLER, SERVED, Failure
from tests.support.faults import Window, through
from tests.support.operator_shell import OperatorShell


def test_what_was_acknowledged_must_be_there() -> None:
    model = Model()
    model.attempt(("host", "a"), THERE, acknowledged=True)
    model.attempt(("host", "b"), THERE, acknowledged=True)
    model.attempt(("host", "b"), REVOKED, acknowledged=True)
    assert model.differences({("host", "a"): THERE, ("host", "b"): REVOKED, ("host", "other"): THERE}) == []
    assert model.differences({("host", "b"): REVOKED}) == ["host a is None, not there"]
    assert model.differences({("host", "a"): THERE, ("host", "b"): THERE}) == ["host b is there, not revoked"]


def test_what_was_not_answered_may_be_there_until_the_next_one_was() -> None:
    model = Model()
    model.attempt(("policy",), "one", acknowledged=True)
    model.attempt(("policy",), "two", acknowledged=False)
    assert model.certain("policy", "one") == []
    assert model.differences({("policy",): "one"}) == model.differences({("policy",): "two"}) == []
    assert model.differences({("policy",): "zero"})
    model.attempt(("policy",), "three", acknowledged=True)
    assert model.differences({("policy",): "two"})
    model.attempt(("host", "a"), THERE, acknowledged=False)
    assert model.differences({("policy",): "three"}) == [], "it may be gone"
    model.attempt(("host", "a"), GONE, acknowledged=True)
    assert model.differences({("policy",): "three", ("host", "a"): THERE})


def test_two_that_change_one_estate_after_each_other_name_nothing_alike(tmp_path: Path) -> None:
    def named() -> set[tuple[str, ...]]:
        shell = cast(OperatorShell, lambda *_: (0, "", ""))
        changes = Changes(shell, random.Random(1), tmp_path / "policy", hosts=["vm1"], rules="", caller="vm3")
        for _ in range(20):
            changes.change_something()
        return changes.model.may_be.keys() - {("policy",)}

    first, second = named(), named()
    assert first and second and not first & second


def test_a_failure_is_explained_by_what_was_broken_while_it_was_under_way() -> None:
    window = Window("vm1 killed", frozenset({"direct"}), 10.0, 12.0)
    assert window.explains(Failure("direct", 9.9, 10.1, ""))
    assert window.explains(Failure("direct", 12.0, 30.0, ""))
    assert not window.explains(Failure("direct", 9.0, 9.9, ""))
    assert not window.explains(Failure("direct", 12.1, 12.2, ""))
    assert not window.explains(Failure("relayed", 10.0, 11.0, ""))


def test_what_a_node_is_the_only_way_to() -> None:
    everything = frozenset(SERVED)
    assert through(CALLER, gateways=2) == (everything, frozenset())
    assert through("vm1", gateways=2) == ({"direct"}, {"both"})
    assert through("vm2", gateways=2) == ({"relayed"}, {"both"})
    assert through("op", gateways=1) == ({"relayed"}, {"both"})
    assert through("gw2", gateways=2) == (frozenset(), {"relayed", "both"})
