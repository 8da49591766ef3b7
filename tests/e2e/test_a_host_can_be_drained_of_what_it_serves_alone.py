"""I/O: `host drain --serving-only`: nothing new goes to the host, and its own programs go on calling."""

from __future__ import annotations

import json

from tests.support.estate import OPERATOR, Estate, allow
from tests.support.pair import CLIENT, SERVER, locate, start_pair
from tests.support.traffic import Backend, ask, eventually, hold, is_alive, is_refused, session


def test_a_host_can_be_drained_of_what_it_serves_alone(estate: Estate) -> None:
    with Backend("there") as there, Backend("back") as back, Backend("held", hold) as held:
        pair = start_pair(estate, {"there": there.target, "held": held.target})
        estate.service_add("back", host=CLIENT, target=back.target, port=8080)
        rules = [allow(f"host:{CLIENT}", "there", name="a"), allow(f"host:{CLIENT}", "held", name="b")]
        estate.apply_policy("".join([*rules, allow(f"host:{SERVER}", "back", name="c")]))
        calls = locate(estate, SERVER, "back")
        eventually(lambda: ask(*calls) == "back")
        with session(*pair.place("held")) as kept:
            drain = ("-o", "json", "host", "drain", SERVER, "--serving-only", "--deadline", "1s", "--reason", "upgrade")
            done = estate.cli(OPERATOR, *drain)
            assert done.returncode == 1 and json.loads(done.stdout) == {"host": SERVER, "cut": 0, "left": 1}
            assert is_alive(kept), "nothing is cut"
            assert is_refused(*pair.place("there")), "nothing new goes to it"
            assert ask(*calls) == "back", "its own programs go on"
        assert estate.cli(OPERATOR, *drain).returncode == 0
        estate.ok(OPERATOR, "host", "resume", SERVER)
        eventually(lambda: ask(*pair.place("there")) == "there")
