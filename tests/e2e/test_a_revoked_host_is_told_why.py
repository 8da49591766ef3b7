"""I/O: a host that is revoked while it is connected says so in its own status, and its doctor fails."""

from __future__ import annotations

import json

from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import eventually


def test_a_revoked_host_is_told_why(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.start_agent("vm1")

    def warnings() -> dict[str, str]:
        found = json.loads(estate.ok("vm1", "-o", "json", "status"))["warnings"]
        return {warning["code"]: warning["text"] for warning in found}

    eventually(lambda: "no-gateway" not in warnings(), what="connected")
    estate.ok(OPERATOR, "host", "revoke", "vm1", "--reason", "lost in a train")
    eventually(lambda: "lost in a train" in warnings().get("revoked", ""), what="told why")
    assert estate.cli("vm1", "doctor").returncode == 1
