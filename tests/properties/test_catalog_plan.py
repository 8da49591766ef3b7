"""Pure: what is planned for Consul's catalog does what an obvious twin says, whatever is there and whoever's it is."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from agents.catalog.mirror import Mirror
from agents.catalog.plan import Denied, plan
from inventory.registries.consul_catalog_wire import Check, Entry, Found, Key, Mark, Node, Operation, Service

MARK = Mark("corp.internal", "0123456789abcdef")
NODE = "meshbridge_corp.internal_vm1"
OTHERS = Mark("corp.internal", "fedcba9876543210")
IDS = ("a", "b", "c")
NAMES = ("web", "db")

Catalog = dict[Key, Found]


def node(value: str, mark: Mark) -> Node:
    return Node(name=NODE, address=value, meta=mark.meta)


def service(service_id: str, name: str, value: str, mark: Mark) -> Service:
    return Service(node=NODE, id=service_id, name=name, address=value, port=80, tags=(), meta=mark.meta)


def check(service_id: str, name: str, value: str, mark: Mark) -> Check:
    return Check(
        node=NODE,
        id=f"check:{service_id}",
        name="health",
        status=value,
        notes=mark.notes,
        output="",
        service_id=service_id,
        service_name=name,
    )


values = st.sampled_from(("one", "two"))
marks = st.sampled_from((MARK, MARK, OTHERS))


@st.composite
def wanted_entries(draw: st.DrawFn) -> dict[Key, Entry]:
    if draw(st.integers(0, 4)) == 0:
        return {}
    entries: list[Entry] = [node(draw(values), MARK), check("", "", draw(values), MARK)]
    for service_id in draw(st.sets(st.sampled_from(IDS))):
        name = draw(st.sampled_from(NAMES))
        entries += [service(service_id, name, draw(values), MARK), check(service_id, name, draw(values), MARK)]
    return {entry.key: entry for entry in entries}


@st.composite
def found_entries(draw: st.DrawFn) -> Catalog:
    """As Consul could hold it: nothing without its node, no check without its service."""
    if draw(st.integers(0, 4)) == 0:
        return {}
    entries: list[Entry] = [node(draw(values), draw(marks))]
    if draw(st.booleans()):
        entries.append(check("", "", draw(values), draw(marks)))
    for service_id in draw(st.sets(st.sampled_from(IDS))):
        name = draw(st.sampled_from(NAMES))
        entries.append(service(service_id, name, draw(values), draw(marks)))
        if draw(st.booleans()):
            entries.append(check(service_id, name, draw(values), draw(marks)))
    return {entry.key: Found(entry, draw(st.integers(1, 9))) for entry in entries}


def apply(catalog: Catalog, operation: Operation) -> None:
    """What Consul does with one operation of a transaction. Fails where that one fails."""
    there = catalog.get(operation.key)
    assert operation.version == (there.version if there is not None else 0), "somebody else's, or not as it was read"
    kind, name, _ = operation.key
    if operation.removes:
        assert there is not None
        gone = [operation.key]
        if kind == "node":
            gone = [key for key in catalog if key.node == name]
        if kind == "service":
            of_it = [f.entry for f in catalog.values() if isinstance(f.entry, Check)]
            gone += [entry.key for entry in of_it if entry.service_id == operation.key.id]
        for key in gone:
            del catalog[key]
        return
    assert kind == "node" or Key("node", name) in catalog, "no such node"
    if isinstance(operation.entry, Check) and operation.entry.service_id:
        assert Key("service", name, operation.entry.service_id) in catalog, "no such service"
    catalog[operation.key] = Found(operation.entry, 100)


def twin(wanted: Mapping[Key, Entry], found: Catalog, taken: set[str]) -> dict[Key, Entry]:
    """What should be there in the end, said as plainly as can be."""
    theirs = {key for key, f in found.items() if not f.entry.is_ours(MARK)}
    after = {key: found[key].entry for key in theirs}
    if Key("node", NODE) in theirs:
        return after
    for key, entry in wanted.items():
        if isinstance(entry, Service):
            of_check = Key("check", NODE, f"check:{entry.id}")
            if entry.name not in taken and key not in theirs and of_check not in theirs:
                after[key], after[of_check] = entry, wanted[of_check]
        elif key not in theirs and not (isinstance(entry, Check) and entry.service_id):
            after[key] = entry
    if theirs and not wanted:
        after[Key("node", NODE)] = found[Key("node", NODE)].entry  # they stand on it
    return after


def is_possible(wanted: Mapping[Key, Entry], found: Catalog, taken: set[str]) -> bool:
    """Consul removes all checks of a service that is removed: a check that others put on ours cannot be kept."""
    after = twin(wanted, found, taken)
    checks = [entry for entry in after.values() if isinstance(entry, Check) and entry.service_id]
    return all(Key("service", NODE, entry.service_id) in after for entry in checks)


@given(wanted_entries(), found_entries(), st.sets(st.sampled_from(NAMES)))
def test_f51_the_plan_leads_to_what_the_twin_says_and_touches_nothing_of_others(
    wanted: dict[Key, Entry], found: Catalog, taken: set[str]
) -> None:
    made = plan(NODE, wanted, found, mark=MARK, taken=taken)
    catalog = dict(found)
    for group in made.groups:
        for operation in group:
            assert operation.key not in found or found[operation.key].entry.is_ours(MARK)
            apply(catalog, operation)
    if is_possible(wanted, found, taken):
        assert {key: f.entry for key, f in catalog.items()} == twin(wanted, found, taken)
        assert all(catalog[key] == f for key, f in found.items() if not f.entry.is_ours(MARK))
        assert not plan(NODE, wanted, catalog, mark=MARK, taken=taken).groups, "and then there is nothing to do"


@given(wanted_entries(), found_entries())
def test_only_what_differs_is_written_and_a_service_never_without_its_check(
    wanted: dict[Key, Entry], found: Catalog
) -> None:
    made = plan(NODE, wanted, found, mark=MARK)
    for group in made.groups:
        for operation in group:
            there = found.get(operation.key)
            assert there is None or operation.removes or there.entry != operation.entry
        new = {o.key.id for o in group if o.key.kind == "service" and o.version == 0}
        checked = {o.entry.service_id for o in group if isinstance(o.entry, Check)}
        standing = {f.entry.service_id for f in found.values() if isinstance(f.entry, Check)}
        assert new <= checked | standing


@given(wanted_entries(), found_entries(), st.booleans(), st.sets(st.sampled_from(NAMES)))
def test_nothing_is_planned_that_the_token_may_not_write(
    wanted: dict[Key, Entry], found: Catalog, node_denied: bool, names: set[str]
) -> None:
    made = plan(NODE, wanted, found, mark=MARK, denied=Denied({NODE} if node_denied else set(), names))
    for operation in (operation for group in made.groups for operation in group):
        match operation.entry:
            case Service(name=name) | Check(service_name=name) if name:
                assert name not in names
                assert not node_denied or Key("node", NODE) in found
            case _:
                assert not node_denied


@given(wanted_entries(), found_entries())
def test_what_was_written_is_known_as_reading_it_again_would_say(wanted: dict[Key, Entry], found: Catalog) -> None:
    mirror = Mirror(MARK)
    mirror.read_node(NODE, found.values())
    catalog = dict(found)
    for group in plan(NODE, wanted, found, mark=MARK).groups:
        for operation in group:
            if operation.key in catalog or not operation.removes:
                apply(catalog, operation)
        mirror.wrote(group, [100 for operation in group if not operation.removes])
    ours = {key: f for key, f in mirror.nodes.get(NODE, {}).items() if f.entry.is_ours(MARK)}
    assert ours == {key: f for key, f in catalog.items() if f.entry.is_ours(MARK)}
