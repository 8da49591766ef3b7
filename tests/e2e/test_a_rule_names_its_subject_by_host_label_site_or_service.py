"""I/O: every way to write a subject, live: the rule lets the host that it means through, and the others not."""

from __future__ import annotations

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually, is_refused

SUBJECTS = {
    "host:app": "host:db1",
    "host:a*": "host:b*",
    "host:ap?": "host:ap??",
    "label:role=web": "label:role=batch",
    "label:role=w*": "label:tier=*",
    "site:dc2": "site:dc1",
    "site:dc?": "site:dc?x",
    "service:front": "service:back",
}
"""What means the host `app` -> what does not."""


def test_a_subject_means_the_hosts_it_should(town: Town) -> None:
    text, rows = "", []
    with Backend("db1") as backend:
        for subject, other in SUBJECTS.items():
            meant, unmeant = town.name("meant"), town.name("unmeant")
            text += allow(f"for {meant}", f'"{subject}"', f'"{meant}"')
            text += allow(f"for {unmeant}", f'"{other}"', f'"{unmeant}"')
            rows.append((meant, unmeant))
            for service in (meant, unmeant):
                town.place(service, "db1", backend.target)
        town.policy(text)
        for meant, unmeant in rows:
            address = town.address("app", meant)
            assert eventually(lambda address=address: ask(*address)) == "db1"
            assert not town.knows("app", unmeant)
            assert (town.allowed("host:app", meant), town.allowed("host:app", unmeant)) == (True, False)


def test_a_target_may_be_a_label_of_the_instances(town: Town) -> None:
    gold, tin = town.name("gold"), town.name("tin")
    with Backend("db2") as backend:
        town.place(gold, "db2", backend.target, "--label", "tier=gold")
        town.place(tin, "db2", backend.target, "--label", "tier=tin")
        town.policy(allow("gold", '"host:app"', '"label:tier=g*"'))
        address = town.address("app", gold)
        assert eventually(lambda: ask(*address)) == "db2"
        assert not town.knows("app", tin)


def test_c03_c04_deny_wins_over_any_allow_in_any_spelling(town: Town) -> None:
    service = town.name("cards")
    rule = allow("all", '"host:**"', f'"{service}"')
    with Backend("db1") as backend:
        town.place(service, "db1", backend.target)
        town.policy(rule)
        address = town.address("app", service)
        assert eventually(lambda: ask(*address)) == "db1"
        town.policy(allow("no web", '"LABEL:Role=WEB"', f'"{service.upper()}"', effect="deny") + rule)
        eventually(lambda: is_refused(*address), what="the deny is in force")
        assert is_refused(*address)  # the one before may have been cut on its way
        assert not town.allowed("host:app", service)
        assert town.allowed("host:db2", service)
        record = town.flow("app", service, "refused")
        assert record["rule"] == "no web"
        assert "denies" in record["reason"]
