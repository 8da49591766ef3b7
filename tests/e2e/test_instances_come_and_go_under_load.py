"""I/O: instances are added and removed while clients open a connection per request: none of them fails."""

from __future__ import annotations

import contextlib

from tests.support.town import Town, allow
from tests.support.traffic import Backend, Load, ask, eventually

CHANGES = 15


def test_no_request_fails_while_instances_change(town: Town) -> None:
    service = town.name("pods")
    with contextlib.ExitStack() as stack:
        pods = [_pod(town, stack, service, number) for number in range(2)]
        town.policy(allow("pods", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        eventually(lambda: ask(*address))
        with Load(address[0], address[1], rate=100) as load:
            for number in range(2, 2 + CHANGES):
                pods.append(_pod(town, stack, service, number))
                oldest = pods.pop(0)
                town.ok("op", "service", "remove", service, "--target", oldest.target)
                load.wait_for(10, of=pods[-1].name)
                oldest.stop()
            load.wait_for(100)
    assert not load.failures, f"{len(load.failures)} of {load.total} failed: {load.failures[:3]}"
    assert len(load.answers) >= CHANGES, load.answers


def _pod(town: Town, stack: contextlib.ExitStack, service: str, number: int) -> Backend:
    backend = stack.enter_context(Backend(f"pod-{number}"))
    town.place(service, "db2", backend.target)
    return backend
