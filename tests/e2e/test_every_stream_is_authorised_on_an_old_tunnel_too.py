"""I/O: C31: a policy that takes a right away holds for the next stream of a tunnel that was made before it."""

from __future__ import annotations

import time

from agents.estate import load_config
from bridge.tunnels.frames import Code
from tests.support.estate import Estate
from tests.support.pair import SERVER, start_pair
from tests.support.traffic import Backend, echo
from tests.support.tunnel_client import TunnelClient, root_of

BOTH = '[[allow]]\nname = "both"\nfrom = ["host:peer"]\nto = ["echo", "other"]\n'
ONE = '[[allow]]\nname = "one"\nfrom = ["host:peer"]\nto = ["other"]\n'
CUT_WITHIN = 1.0
ROOM = 2.0
"""Seconds for a loaded machine, and for the command itself to end."""


def test_c31_the_next_stream_is_refused_without_a_new_handshake(estate: Estate) -> None:
    with Backend("echo", echo) as backend, Backend("other", echo) as other:
        start_pair(estate, {"echo": backend.target, "other": other.target}, direct=True)
        estate.add_host("peer")
        estate.apply_policy(BOTH)
        listen = load_config(estate.home(SERVER)).listen
        assert listen is not None
        home = estate.home("peer")
        with TunnelClient(listen, identity=home / "identity.pem", root=root_of(home)) as tunnel:
            assert tunnel.wait_up(), tunnel.refused
            live, kept = tunnel.ask("echo", backend.target), tunnel.ask("other", other.target)
            assert live.accepted and kept.accepted
            began = time.monotonic()
            estate.apply_policy(ONE)
            applied = time.monotonic()
            tunnel.wait(lambda: live.reset is not None)
            print(f"cut seen {time.monotonic() - applied:.2f} s after a command of {applied - began:.2f} s")
            assert time.monotonic() - applied < CUT_WITHIN + ROOM
            assert live.reset == Code.CUT
            again = tunnel.ask("echo", backend.target)
            assert again.refused is not None and again.refused.code == Code.DENIED, again.refused
            assert tunnel.ask("other", other.target).accepted, "what is still allowed is"
            assert kept.reset is None, "and goes on"
            estate.apply_policy(BOTH)
            assert tunnel.ask("echo", backend.target).accepted, "the same tunnel, with the right given back"
            assert tunnel.closed is None
