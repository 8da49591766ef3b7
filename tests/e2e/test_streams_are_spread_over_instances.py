"""I/O: several instances of one service share its connections, by load and by weight."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually, hold


def test_connections_go_to_all_instances(town: Town) -> None:
    service = town.name("web")
    with contextlib.ExitStack() as stack:
        backends = [stack.enter_context(Backend(f"web-{n}")) for n in range(4)]
        for number, backend in enumerate(backends):
            town.place(service, "db1" if number % 2 else "db2", backend.target)
        town.policy(allow("web", '"host:db1", "host:app"', f'"{service}"'))
        address = town.address("app", service)
        eventually(lambda: ask(*address))
        # The caller's own site first: its two instances.
        assert {ask(*address) for _ in range(40)} == {"web-0", "web-2"}


def test_held_sessions_are_balanced_by_load(town: Town) -> None:
    service = town.name("terminal")
    with contextlib.ExitStack() as stack:
        for number in range(3):
            town.place(service, "db2", stack.enter_context(Backend(f"t-{number}", hold)).target)
        town.policy(allow("terminal", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        held: Counter[str] = Counter()
        for _ in range(60):
            sock = stack.enter_context(socket.create_connection(address, 10))
            held[sock.recv(100).decode().strip()] += 1
        assert len(held) == 3
        assert max(held.values()) - min(held.values()) <= 8, held


def test_weight_is_an_instances_share(town: Town) -> None:
    service = town.name("weighed")
    with Backend("small") as small, Backend("big") as big:
        town.place(service, "db2", small.target, "--weight", "1")
        town.place(service, "db2", big.target, "--weight", "9")
        town.policy(allow("weighed", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        eventually(lambda: ask(*address))
        counts = Counter(ask(*address) for _ in range(200))
        assert counts["big"] > 3 * counts["small"], counts
