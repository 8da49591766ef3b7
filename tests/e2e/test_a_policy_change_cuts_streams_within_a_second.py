"""I/O: a policy that no longer allows a stream ends it within a second, at both ends, with the reason; others go on."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.estate import Estate
from tests.support.pair import CLIENT, SERVER, allow_all, start_pair
from tests.support.traffic import Backend, hold, is_alive, is_refused, session, wait_cut

WITHIN = 1.0
STREAMS = 20


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the gateway"])
@pytest.mark.usefixtures("each_registry")
def test_all_that_lost_their_permit_and_no_other(estate: Estate, direct: bool) -> None:
    with Backend("stays", hold) as stays, Backend("goes", hold) as goes:
        pair = start_pair(estate, {"stays": stays.target, "goes": goes.target}, direct=direct)
        place = pair.place("goes")
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(STREAMS) as pool:
            kept = stack.enter_context(session(*pair.place("stays")))
            socks = [stack.enter_context(session(*place)) for _ in range(STREAMS)]
            assert all(map(is_alive, socks))
            ends = [pool.submit(lambda s=sock: (wait_cut(s), time.monotonic())[1]) for sock in socks]
            pair.town.policy(allow_all({"stays": stays.target}))
            applied = time.monotonic()
            last = max(end.result() for end in ends)
            print(f"{STREAMS} streams cut {last - applied:+.2f} s from the end of `policy apply`")
            assert last - applied < WITHIN
            assert is_alive(kept)
        # Whoever hears of the policy first says why; the other end is told that it was cut.
        reasons = [pair.town.flow(node, "goes", "cut")["reason"] for node in (CLIENT, SERVER)]
        assert any("no rule" in reason for reason in reasons), reasons
        print(f"recorded: {reasons}")
        if pair.town.knows(CLIENT, "goes"):
            assert is_refused(*place)
