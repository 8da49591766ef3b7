"""I/O: a process that writes to a registry until it is killed, for tests that kill it.

python -m tests.support.registry_writer append REGISTRY         appends batches; prints each acknowledged number
python -m tests.support.registry_writer spend REGISTRY N M      prints `ready`, reads a line, then 10 keys named N-...
                                                                try to spend each of M invites; prints `done`
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import trio

from inventory.authority import AuthorityState, Body, TokenRefused, append, read_log, spend_invite, verify_log
from inventory.registries.embedded import open_embedded
from tests.support import authority as say
from tests.support.authority import ALICE, NOW

BATCH = 3
"""Entries per transaction, each transaction with one attachment."""
KEYS = 10


def batch_after(state: AuthorityState) -> list[Body]:
    """The next entries: a policy first, which its attachment belongs to."""
    start: list[Body] = [say.domain()] if state.number == 0 else [say.policy(str(state.number))]
    return [*start, *(say.host(f"vm{state.number + i}") for i in range(1, BATCH))]


async def append_for_ever(path: Path) -> None:
    async with open_embedded(path) as registry:
        state = verify_log(await read_log(registry))
        while True:
            added = await append(
                registry,
                ALICE,
                batch_after(state),
                message="",
                now=NOW,
                attachments={"source/<number>": b"x" * 3000},
                state=state,
            )
            state = verify_log(added, state)
            print(state.number, flush=True)


async def spend_all(path: Path, name: str, invites: int) -> None:
    async with open_embedded(path) as registry:
        print("ready", flush=True)
        sys.stdin.readline()

        async def one(number: int, key: int) -> None:
            source = f"{name}-{key}"
            try:
                await spend_invite(
                    registry, say.invite(number, f"vm{number}"), key=say.digest(source), source=source, now=NOW
                )
            except TokenRefused:
                pass

        for number in range(invites):
            async with trio.open_nursery() as nursery:
                for key in range(KEYS):
                    nursery.start_soon(partial(one, number, key))
        print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "append":
        trio.run(append_for_ever, Path(sys.argv[2]))
    else:
        trio.run(spend_all, Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
