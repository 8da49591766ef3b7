"""I/O: `host list` and `host show` say whether a host is there, by the word of the gateway that runs on the home."""

from __future__ import annotations

import json
from typing import Any

from tests.support.estate import OPERATOR, Estate
from tests.support.traffic import eventually


def listed(estate: Estate) -> dict[str, dict[str, Any]]:
    return {host["name"]: host for host in json.loads(estate.ok(OPERATOR, "host", "list", "-o", "json"))}


def in_table(estate: Estate) -> dict[str, str]:
    lines = estate.ok(OPERATOR, "host", "list").splitlines()[1:]
    return {line.split()[0]: line.split()[1] for line in lines}


def test_host_list_says_who_is_there(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    estate.add_host("vm1")
    estate.add_host("vm2")
    estate.ok(OPERATOR, "host", "add", "vm3")
    assert in_table(estate) == {"vm1": "away", "vm2": "away", "vm3": "invited"}

    estate.start_agent("vm1")
    eventually(lambda: in_table(estate)["vm1"] == "online", what="vm1 online")
    found = listed(estate)
    assert {name: host["presence"] for name, host in found.items()} == {"vm1": "online", "vm2": "away", "vm3": None}
    assert found["vm1"]["state"] == "enrolled", "what scripts know is as it was"
    assert "online" in estate.ok(OPERATOR, "host", "show", "vm1")

    estate.ok(OPERATOR, "host", "revoke", "vm2")
    assert in_table(estate)["vm2"] == "revoked"
    estate.terminate(OPERATOR)
    assert in_table(estate) == {"vm1": "enrolled", "vm2": "revoked", "vm3": "invited"}
    assert listed(estate)["vm1"]["presence"] is None
