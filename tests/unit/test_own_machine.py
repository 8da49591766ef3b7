"""I/O: (UDP sockets that send nothing) which addresses are this machine's own."""

from __future__ import annotations

from bridge.relay.own_machine import is_own


def test_this_machine_is_known_by_its_addresses_and_others_are_not() -> None:
    assert is_own(("127.0.0.1", 80)) and is_own(("127.0.0.1", 0))
    assert not is_own(("192.0.2.7", 80))
    assert not is_own(("2001:db8::7", 80))
