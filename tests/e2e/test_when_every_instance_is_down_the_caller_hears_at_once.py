"""I/O: no instance left: an immediate and clear end, and as soon as one is back it serves again."""

from __future__ import annotations

import time

from tests.support.town import Town, allow
from tests.support.traffic import Backend, ask, eventually, is_refused


def test_f38_all_down_fails_at_once_and_recovery_takes_one_check(town: Town) -> None:
    service = town.name("ledger")
    with Backend("one") as one, Backend("two") as two:
        for backend, host in ((one, "db1"), (two, "db2")):
            town.place(service, host, backend.target, "--check", "tcp;interval=300ms")
        town.policy(allow("ledger", '"host:app"', f'"{service}"'))
        address = town.address("app", service)
        eventually(lambda: ask(*address))
        for backend in (one, two):
            backend.stop()
        for _ in range(5):
            began = time.monotonic()
            assert is_refused(*address)
            assert time.monotonic() - began < 1.0
        record = town.flow("app", service, "failed")
        assert "connection refused" in record["reason"].lower()
        for host in ("db1", "db2"):
            eventually(lambda host=host: _state(town, host, service) == "failing", what=f"{host} failing")
        assert is_refused(*address)
        done = town.estate.cli("app", "dial", service, input="?\n")
        assert done.returncode == 69
        assert "connection refused" in done.stderr.lower()
        one.start()
        began = time.monotonic()
        eventually(lambda: ask(*address) == "one")
        assert time.monotonic() - began < 2.0, "recovery within one check"


def _state(town: Town, host: str, service: str) -> str:
    return next(state for i, (state, _) in town.health(host).items() if i.startswith(f"{service}/"))
