"""I/O: a second node in one home is refused in words, and the first goes on; a killed node leaves the home free."""

from __future__ import annotations

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import status


def test_f17_a_home_belongs_to_one_node_at_a_time(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.start_agent("vm1")
    for home, kind in ((OPERATOR, "gateway"), ("vm1", "agent")):
        second = estate.cli(home, kind, "run")
        assert second.returncode == 69, second.stderr
        assert f"another meshbridge node runs in this home (process {estate.nodes[home].pid})" in second.stderr
        assert "stop it first, or choose another --home" in second.stderr
        assert status(estate, home)["pid"] == estate.nodes[home].pid, "the first one goes on"

        estate.kill9(home)
        again = estate.start_gateway() if kind == "gateway" else estate.start_agent(home)
        assert status(estate, home)["pid"] == again.pid
