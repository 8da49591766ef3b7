"""I/O: how far a home has seen the log: the further of what its gateway and its commands saw, and what is older."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.knowledge.seen import OPERATOR_SEEN_FILE, SEEN_FILE, Seen, furthest_seen, refuse_older, write_seen
from agents.knowledge.verified_log import VerifiedLog
from inventory.authority import AuthorityError, AuthorityFork, verify_log
from inventory.errors import InputError
from tests.support.authority import Chain, host
from tests.unit.test_estate import filled


async def read(chain: Chain, *parts: int) -> VerifiedLog:
    log = VerifiedLog(filled(chain, *parts), chain.fingerprint, collects=True)
    await log.refresh()
    return log


def test_the_further_of_gateway_and_commands_counts(tmp_path: Path) -> None:
    chain = Chain(host("vm1"), host("vm2"))
    assert furthest_seen(tmp_path) is None
    write_seen(tmp_path, verify_log(chain.log[:2]))
    before = furthest_seen(tmp_path)
    assert before is not None and before.number == 2
    write_seen(tmp_path, verify_log(chain.log), OPERATOR_SEEN_FILE)
    assert furthest_seen(tmp_path) == Seen(3, verify_log(chain.log).head)
    (tmp_path / SEEN_FILE).write_bytes(b"{")
    with pytest.raises(InputError, match="seen"):
        furthest_seen(tmp_path)


async def test_f34_a_command_refuses_what_is_older_or_other_than_what_was_seen() -> None:
    chain = Chain(host("vm1"), host("vm2"))
    seen = Seen(3, verify_log(chain.log).head)
    refuse_older(await read(chain), seen)
    refuse_older(await read(chain), None)
    chain.add(host("vm3"))
    refuse_older(await read(chain), seen)
    with pytest.raises(AuthorityError, match="the registry went back: its log ends at entry 2"):
        refuse_older(await read(chain, 2), seen)
    with pytest.raises(AuthorityFork):
        refuse_older(await read(Chain(host("vm1"), host("vm9"))), seen)
