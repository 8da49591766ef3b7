"""I/O: `flows --follow` goes on with every stream that ends, also those that were refused, until it is told to stop."""

from __future__ import annotations

import json
import signal

from tests.support.estate import Estate, allow
from tests.support.pair import CLIENT, start_pair
from tests.support.traffic import Backend, ask, eventually, is_refused


def test_flows_follow_shows_each_stream_as_it_ends(estate: Estate) -> None:
    with Backend("web") as web:
        pair = start_pair(estate, {"web": web.target})
        place = pair.place("web")
        assert eventually(lambda: ask(*place)) == "web"
        command = estate.command(CLIENT, "-o", "json", "flows", "--follow", "--limit", "1")
        following = estate.start("follow", command)
        table = estate.start("follow-table", estate.command(CLIENT, "flows", "--follow", "--limit", "0"))
        first = json.loads(following.stdout.wait_for("web", 15))
        assert first["result"] == "ok" and first["subject"] == f"host:{CLIENT}"

        table.stdout.wait_for("SUBJECT", 15)
        assert ask(*place) == "web"
        second = json.loads(following.stdout.wait_for("web", 10, after=1))
        assert second["ts"] > first["ts"]
        assert "web" in table.stdout.wait_for("web", 10, after=1)

        estate.apply_policy(allow(f"host:{CLIENT}", "web") + 'user = ["somebody-else"]\n')
        eventually(lambda: is_refused(*place), what="it is for somebody else now")
        refused = json.loads(following.stdout.wait_for("refused", 10, after=2))
        assert refused["service"] == "web" and "it is for somebody-else" in refused["reason"]
        for process in (following, table):
            process.signal(signal.SIGINT)
            process.wait(10)
            process.stderr.join(5)
            assert "Traceback" not in process.stderr.tail()
