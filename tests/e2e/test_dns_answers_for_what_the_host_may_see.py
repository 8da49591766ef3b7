"""I/O: dig asks the agents' own DNS servers: each knows what its host may see, and says where things listen."""

from __future__ import annotations

import ipaddress
import json
import shutil
import subprocess

import pytest

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually

pytestmark = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is not installed (Debian: bind9-dnsutils)")
DOMAIN = "bridge.internal"


def dig(town: Town, host: str, *words: str) -> str:
    config = json.loads((town.estate.home(host) / "domain.json").read_text())
    server = ipaddress.ip_network(config["addresses"])[1]
    argv = ["dig", f"@{server}", "-p", "5300", "+tries=1", "+time=5", "+norecurse", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout


def short(town: Town, host: str, *words: str) -> list[str]:
    return dig(town, host, "+short", *words).split()


def status_of(town: Town, host: str, *words: str) -> str:
    return dig(town, host, *words).partition("status: ")[2].partition(",")[0]


def test_every_kind_of_question_about_a_visible_service(town: Town) -> None:
    service = town.name("ledger")
    with Backend("one") as backend:
        town.place(service, "db1", backend.target, port=7001)
        town.policy(allow("ledger", '"host:app"', f'"{service}"'))
        address, port = town.address("app", service)
        name = f"{service}.{DOMAIN}"
        assert short(town, "app", name) == [address]
        assert short(town, "app", f"{name.upper()}.") == [address]
        assert short(town, "app", "+tcp", name) == [address]
        in_dc1, _ = town.address("app", f"{service}.dc1.{DOMAIN}")
        assert short(town, "app", f"{service}.dc1.{DOMAIN}") == [in_dc1]
        assert short(town, "app", "SRV", f"_{service}._tcp.{DOMAIN}") == ["0", "0", str(port), f"{name}."]
        assert short(town, "app", "-x", address) == [f"{name}."]
        assert (status_of(town, "app", "AAAA", name), short(town, "app", "AAAA", name)) == ("NOERROR", [])
        assert status_of(town, "app", f"nothing.{DOMAIN}") == "NXDOMAIN"
        assert status_of(town, "app", f"{service}.dc9.{DOMAIN}") == "NXDOMAIN"
        assert status_of(town, "app", f"x{DOMAIN}") == "REFUSED"
        assert status_of(town, "app", "example.com") == "REFUSED"
        assert eventually(lambda: ask(short(town, "app", name)[0], port)) == "one"


def test_a_name_that_a_host_may_not_see_is_unknown_to_it(town: Town) -> None:
    service = town.name("secret")
    name = f"{service}.{DOMAIN}"
    with Backend("one") as backend:
        town.place(service, "db1", backend.target)
        town.policy(allow("db2 only", '"host:db2"', f'"{service}"'))
        address, _ = town.address("db2", service)
        assert short(town, "db2", name) == [address]
        for kind, question in (("A", name), ("SRV", f"_{service}._tcp.{DOMAIN}"), ("AAAA", name)):
            assert status_of(town, "app", kind, question) == "NXDOMAIN"
        town.policy(allow("app only", '"host:app"', f'"{service}"'))
        town.address("app", service)
        eventually(
            lambda: status_of(town, "db2", name) == "NXDOMAIN", what="forgotten where it is not allowed any more"
        )
        assert status_of(town, "app", name) == "NOERROR"


def test_an_address_stays_the_same_when_a_service_goes_and_comes_back(town: Town) -> None:
    service = town.name("steady")
    rule = allow("steady", '"host:app"', f'"{service}"')
    with Backend("one") as backend:
        town.place(service, "db1", backend.target)
        town.policy(rule)
        before = town.address("app", service)
        town.ok("op", "service", "remove", service)
        eventually(lambda: not town.knows("app", service), what="gone")
        town.place(service, "db2", backend.target)
        assert town.address("app", service) == before
        assert eventually(lambda: ask(*before)) == "one"
