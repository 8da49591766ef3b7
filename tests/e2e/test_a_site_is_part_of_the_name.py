"""I/O: `service.site.domain` reaches that site only; without a site the caller's own comes first, then any other."""

from __future__ import annotations

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually, is_refused

DOMAIN = "bridge.internal"


def test_a_name_with_a_site_reaches_that_site_only(town: Town) -> None:
    service = town.name("store")
    with Backend("in-dc1") as one, Backend("in-dc2") as two:
        town.place(service, "db1", one.target)
        town.place(service, "db2", two.target)
        town.policy(allow("store", '"host:app"', f'"{service}"'))
        for site, expected in (("dc1", "in-dc1"), ("dc2", "in-dc2")):
            address = town.address("app", f"{service}.{site}.{DOMAIN}")
            eventually(lambda address=address: ask(*address))
            assert {ask(*address) for _ in range(10)} == {expected}
        places = {town.address("app", name) for name in (service, f"{service}.dc1.{DOMAIN}", f"{service}.dc2.{DOMAIN}")}
        assert len(places) == 3
        two.stop()
        in_dc2 = town.address("app", f"{service}.dc2.{DOMAIN}")
        assert is_refused(*in_dc2), "no other site stands in for the one that was asked for"


def test_without_a_site_the_callers_own_comes_first(town: Town) -> None:
    service = town.name("store")
    with Backend("in-dc1") as one, Backend("in-dc2") as two:
        town.place(service, "db1", one.target, "--check", "tcp;interval=200ms;fall=1")
        town.place(service, "db2", two.target, "--check", "tcp;interval=200ms;fall=1")
        town.policy(allow("store", '"host:app", "host:db1"', f'"{service}"'))
        from_app, from_db1 = town.address("app", service), town.address("db1", service)
        eventually(lambda: ask(*from_app) == "in-dc2")
        assert {ask(*from_app) for _ in range(20)} == {"in-dc2"}
        eventually(lambda: ask(*from_db1) == "in-dc1")
        assert {ask(*from_db1) for _ in range(20)} == {"in-dc1"}
        two.stop()
        assert {ask(*from_app) for _ in range(20)} == {"in-dc1"}, "another site, when the own one is down"
        two.start()
        eventually(lambda: ask(*from_app) == "in-dc2", what="back to the own site")


def test_a_site_that_does_not_exist_is_not_known(town: Town) -> None:
    service = town.name("store")
    with Backend("in-dc1") as one:
        town.place(service, "db1", one.target)
        town.policy(allow("store", '"host:app"', f'"{service}"'))
        town.address("app", f"{service}.dc1.{DOMAIN}")
        code, _, words = town.command("app", "resolve", f"{service}.dc9.{DOMAIN}")
        assert code == 1
        assert f"{service}.dc9 is not known here" in words
