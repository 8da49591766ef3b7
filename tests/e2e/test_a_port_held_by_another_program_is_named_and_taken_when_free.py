"""I/O: somebody else listens where a service belongs: status says who, the others work, and it heals by itself."""

from __future__ import annotations

import os
import socket

from tests.support.estate import Estate
from tests.support.pair import CLIENT, Pair, start_pair, status
from tests.support.traffic import Backend, ask, eventually


def bind_problems(estate: Estate) -> list[str]:
    return [w["text"] for w in status(estate, CLIENT)["warnings"] if w["code"] == "cannot-bind"]


def test_a_port_held_by_another_program_is_named_and_taken_when_free(estate: Estate) -> None:
    with Backend("web") as web, Backend("other") as other:
        pair: Pair = start_pair(estate, {"web": web.target, "other": other.target})
        place = pair.place("web")
        estate.terminate(CLIENT)
        with socket.create_server(place):
            estate.start_agent(CLIENT)
            (text,) = eventually(lambda: bind_problems(estate), what="a warning")
            assert f"{place[0]}:{place[1]} cannot be bound" in text
            assert f"(pid {os.getpid()})" in text
            assert estate.cli(CLIENT, "doctor").returncode == 1
            refused = estate.cli(CLIENT, "resolve", "web")
            assert refused.returncode == 69 and "cannot be bound" in refused.stderr
            assert eventually(lambda: ask(*pair.place("other"))) == "other"
        eventually(lambda: not bind_problems(estate), timeout=15, what="it heals by itself")
        assert eventually(lambda: ask(*place)) == "web"
