"""I/O: `agent run --hosts-file`: opt-in, in a fence, everything else byte for byte as it was, gone afterwards."""

from __future__ import annotations

from tests.support.estate import Estate
from tests.support.pair import CLIENT, start_pair
from tests.support.traffic import Backend, eventually

OTHERS = b"127.0.0.1\tlocalhost\n\n# caf\xe9, not UTF-8 \n::1 ip6-localhost\n"


def test_names_are_in_the_hosts_file_while_the_agent_runs(estate: Estate) -> None:
    hosts = estate.path / "hosts"
    hosts.write_bytes(OTHERS)
    with Backend("web") as web, Backend("ledger") as ledger:
        pair = start_pair(estate, {"web": web.target})
        host, _ = pair.place("web")
        assert hosts.read_bytes() == OTHERS, "nobody asked for it"
        estate.terminate(CLIENT)
        estate.start_agent(CLIENT, "--hosts-file", str(hosts))
        line = f"{host}\tweb.bridge.internal\n".encode()
        text = eventually(lambda: line in hosts.read_bytes() and hosts.read_bytes())
        assert text.startswith(OTHERS)

        estate.service_add("web", host=CLIENT, target=ledger.target, port=8000)
        estate.ok("op", "service", "remove", "web", "--host", CLIENT)
        assert hosts.read_bytes().count(b"# meshbridge begin") == 1

        estate.kill9(CLIENT)
        assert line in hosts.read_bytes(), "a killed agent takes nothing away"
        estate.start_agent(CLIENT, "--hosts-file", str(hosts))
        assert estate.terminate(CLIENT) == 0
        assert hosts.read_bytes() == OTHERS
