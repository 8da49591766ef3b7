"""Pure: how long an agentless host that cannot be reached is left alone (agents/ssh/hop.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from typing import Any

import pytest

from agents.ssh.hop import Around, SshHop
from agents.ssh.reasons import Why
from agents.workers.ssh_messages import LastHop
from bridge import limits

BACK_WITHIN = 5.0


def new_hop() -> SshHop:
    unused: dict[str, Any] = {field.name: None for field in dataclasses.fields(Around)}
    around = Around(**(unused | {"changed": lambda: None, "rng": random.Random(5)}))
    return SshHop(LastHop(host="aix1", scheme="ssh", address="192.0.2.7", port=22, user="bridge"), around)


@pytest.mark.parametrize("spent", [0.0, 3.1, limits.SSH_CONNECT_TIMEOUT])
def test_f41_a_silent_address_is_dialled_again_within_5_s_of_the_last_dial(spent: float) -> None:
    hop = asyncio.run(_made())
    waits = [hop._failed(Why("unreachable", "it does not answer"), spent) for _ in range(100)]
    assert max(spent + wait for wait in waits) <= BACK_WITHIN
    assert len(set(waits)) > 1 or spent > limits.SSH_RETRY_MAX


def test_f41_an_sshd_that_took_the_connection_gets_the_whole_pause() -> None:
    hop = asyncio.run(_made())
    waits = [hop._failed(Why("protocol", "it stalls"), limits.SSH_CONNECT_TIMEOUT) for _ in range(100)]
    assert sum(waits) / len(waits) > limits.SSH_RETRY_MAX / 4


async def _made() -> SshHop:
    return new_hop()
