"""I/O: a host's own services: read at SIGHUP, a bad file changes nothing and says so, others' services are refused."""

from __future__ import annotations

import signal

from tests.support.estate import OPERATOR, Estate, allow
from tests.support.pair import locate, status, wait_connected
from tests.support.traffic import Backend, ask, eventually


def test_services_toml_is_read_again_on_sighup(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1", serve=["web"])
    estate.add_host("vm2", serve=["ledger"])
    estate.apply_policy(allow("host:vm2", "web") + allow("host:vm2", "ledger", name="second"))
    services = estate.home("vm1") / "services.toml"
    agent = estate.start_agent("vm1")
    estate.start_agent("vm2")
    wait_connected(estate, "vm1", "vm2")

    def reload(text: str, expected: str) -> str:
        before = agent.stderr.count
        services.write_text(text, encoding="utf-8")
        agent.signal(signal.SIGHUP)
        return agent.stderr.wait_for(expected, 10, after=before)

    with Backend("one") as one, Backend("two") as two:
        reload(service("web", one.target), '"event":"reloaded"')
        place = locate(estate, "vm2", "web")
        assert eventually(lambda: ask(*place)) == "one"

        words = reload(service("web", two.target) + "prot = 80\n", "reload refused")
        assert "services.toml:1: service[0]: unknown field 'prot'" in words and "is port meant?" in words
        assert ask(*place) == "one", "everything stays as it was"
        assert any("services.toml" in text for text in warnings(estate, "vm1")), "it can be seen afterwards too"

        reload(service("web", two.target), '"event":"reloaded"')
        eventually(lambda: ask(*place) == "two", what="the new target")
        assert not warnings(estate, "vm1")

        # H25: a name that another host owns
        reload(service("web", two.target) + service("ledger", two.target), '"event":"reloaded"')
        (refusal,) = eventually(lambda: warnings(estate, "vm1"), what="its own host says so")
        assert "host vm1 may not serve" in refusal and "ledger" in refusal
        heard = estate.nodes[OPERATOR].stderr.wait_for("part of a report was refused", 10)
        assert "may not serve" in heard and "it is owned by vm2" in heard
        assert [s["name"] for s in status(estate, "vm2")["services"]] == ["web"]
        assert ask(*place) == "two"


def service(name: str, target: str) -> str:
    return f'[[service]]\nname = "{name}"\ntarget = "{target}"\nport = 8080\n'


def warnings(estate: Estate, node: str) -> list[str]:
    return [str(warning["text"]) for warning in status(estate, node)["warnings"]]
