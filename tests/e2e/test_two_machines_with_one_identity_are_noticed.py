"""I/O: a cloned machine: the first one is sent away and says why; the gateway warns with the addresses of both."""

from __future__ import annotations

import json
import shutil

from tests.support.estate import OPERATOR, Estate
from tests.support.pair import SERVER, join, status, wait_connected
from tests.support.traffic import eventually

CLONE = "clone"


def warnings(estate: Estate) -> list[str]:
    return [w["text"] for w in status(estate, OPERATOR)["warnings"] if w["code"] == "two-machines"]


def test_two_machines_with_one_identity_are_noticed(estate: Estate) -> None:
    estate.init()
    estate.start_gateway()
    join(estate, SERVER)
    estate.start_agent(SERVER)
    wait_connected(estate, SERVER)
    shutil.copytree(estate.home(SERVER), estate.home(CLONE), ignore=shutil.ignore_patterns("admin.sock"))
    assert warnings(estate) == []

    estate.start_agent(CLONE)
    (text,) = eventually(lambda: warnings(estate), what="the gateway warns", timeout=60)
    assert "host vm1 seems to run on two machines with one identity (from 127.0.0.1)" in text
    (gateway,) = status(estate, SERVER)["gateways"]
    assert gateway["state"] == "away" and "does another machine have its identity?" in gateway["reason"]
    found = json.loads(estate.cli(OPERATOR, "-o", "json", "doctor").stdout)
    assert [f["state"] for f in found if f["check"] == "two-machines"] == ["warn"]
    assert "two machines seem to have one identity" in estate.nodes[OPERATOR].stderr.tail()
